"""What the attackers share: seeded edits, limits, and failing inputs that are made small and kept.

An input is a whole one and a list of edits, plain values that JSON holds. What fails is tried again with fewer edits,
and the smallest is written to ``out/fuzz/<attack>-<seed>.json``; ``python -m pytest test/fuzz --replay FILE`` tries it
alone.

``VLOC_FUZZ=500`` tries so many inputs of each kind, ``VLOC_FUZZ_MINUTES=5`` goes on for so long with each.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vloc_ros.errors import VlocError

#: An edit: its kind, and what it needs to be done again.
Edit = list[Any]

#: Limits of one input: processor seconds, bytes that the process may grow by. More than ``CEILING_BYTES`` of addresses
#: beyond what it had are refused to it: what wants them fails by itself instead of taking the computer with it.
CPU_S, GROWTH_BYTES, CEILING_BYTES = 10.0, 1 << 30, 4 << 30
KEPT = Path("out/fuzz")
#: The one input to try, where one was named.
REPLAYED: Path | None = None

#: Numbers at which arithmetic, parsers and sizes break.
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 255, 256, 2**15, 2**31, -(2**31), 2**32, 2**63, 2**64, 10**30, 0.0, -0.0, 0.5, -1.5, 1e-30, 1e-7, 1e6,
    1e20, 1e38, 1e77, 1e155, 1e300, 1.7e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
#: Texts of every kind that something takes them for.
TEXTS = (
    "", " ", "0", "-1", "1e999", "nan", "inf", "true", "null", "~", "../../etc/passwd", "/dev/zero", "a/b", "\x1b[2J",
    "\u202e", "\U0001f600", "a" * 300, "%s%n", "{}", "[]", "!!python/object/apply:os.system ['x']", "--help", "'", '"',
    "\n", "\x00",
)  # fmt: skip


def value(chance: random.Random, depth: int = 0) -> Any:
    """Any plain value."""
    kind = chance.randrange(7 if depth < 2 else 5)
    if kind == 5:
        return [value(chance, depth + 1) for _ in range(chance.choice([0, 1, 2, 3, 6, 40]))]
    if kind == 6:
        return {chance.choice(TEXTS): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    return (chance.choice(NUMBERS), chance.choice(TEXTS), None, chance.random() < 0.5, chance.uniform(-1e3, 1e3))[kind]


def spoiled(chance: random.Random, old: Any) -> Any:
    """Another value in place of ``old``: of the same kind and near, at an edge, or of any kind."""
    way = chance.random()
    if isinstance(old, bool) and way < 0.5:
        return not old
    if isinstance(old, (int, float)) and way < 0.7:
        near = [old * 2, -old, old + 1, old - 1, old / 3, old * 1e6, old * (1 + 1e-9), float(old)]
        return chance.choice([*near, *NUMBERS])
    if isinstance(old, str) and way < 0.6:
        return chance.choice([old + "x", old[:-1], old.upper(), old[::-1], *TEXTS])
    if isinstance(old, list) and old and way < 0.7:
        shuffled = list(old)
        chance.shuffle(shuffled)
        return chance.choice([old[:-1], [*old, old[-1]], shuffled, old * 2, [], [old]])
    return value(chance)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value of a tree of mappings and lists."""
    out = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in items:
        out += places(item, (*path, key))
    return out


def at(tree: Any, path: Sequence[Any]) -> Any:
    """What is there."""
    for key in path:
        tree = tree[key]
    return tree


def tree_edit(chance: random.Random, tree: Any) -> Edit:
    """An edit of a tree: a value is spoiled, removed, or another one is put beside it."""
    path = chance.choice(places(tree))
    way = chance.random()
    if way < 0.15:
        return ["remove", list(path)]
    if way < 0.25:
        return ["put", list(path[:-1]), chance.choice([*TEXTS, "extra"]), value(chance)]
    return ["set", list(path), spoiled(chance, at(tree, path))]


def edit_tree(tree: Any, edit: Edit) -> None:
    """Do it; nothing where an edit before it took the place away."""
    try:
        if edit[0] == "put":
            parent = at(tree, edit[1])
            if isinstance(parent, dict):
                parent[edit[2]] = edit[3]
            elif isinstance(parent, list):
                parent.append(edit[3])
            return
        parent, key = at(tree, edit[1][:-1]), edit[1][-1]
        if edit[0] == "remove":
            del parent[key]
        elif isinstance(parent, dict) or isinstance(key, int):
            parent[key] = edit[2]
    except (KeyError, IndexError, TypeError):
        return


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flipped bits, zeros, noise, a cut, large numbers, inserted bytes."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        kind, at_byte = chance.random(), chance.randrange(max(1, len(out) - 9))
        length = min(chance.choice([1, 1, 4, 8, 64, 3000]), len(out) - at_byte)
        if kind < 0.3 and out:
            out[at_byte] ^= 1 << chance.randrange(8)
        elif kind < 0.5:
            out[at_byte : at_byte + length] = bytes(length)
        elif kind < 0.7:
            out[at_byte : at_byte + length] = chance.randbytes(length)
        elif kind < 0.8:
            out = out[: max(at_byte, 1)]
        elif kind < 0.9:
            out[at_byte : at_byte + 8] = b"\xff" * 8
        else:
            out[at_byte:at_byte] = chance.randbytes(length)
    return bytes(out)


def assault(name: str, edits: Callable[[random.Random], list[Edit]], attempt: Callable[[list[Edit]], str],
            quick: int) -> Counter[str]:  # fmt: skip
    """Try input after input; returns how they ended.

    :param name: of the attack, for the files of what failed.
    :param edits: the edits of a seed.
    :param attempt: makes the input and uses it; returns a word for how that ended. A :class:`VlocError` of one line is
        a good end, everything else that is raised is none.
    :param quick: how many inputs without ``VLOC_FUZZ`` and ``VLOC_FUZZ_MINUTES``.
    """
    if REPLAYED is not None:
        kept = json.loads(REPLAYED.read_text())
        pytest.skip(_outcome(attempt, kept["edits"]) if kept["attack"] == name else "another attack's")
    minutes, count = os.environ.get("VLOC_FUZZ_MINUTES"), int(os.environ.get("VLOC_FUZZ", quick))
    first = int(os.environ.get("VLOC_FUZZ_SEED", "0"))
    until = time.monotonic() + 60 * float(minutes) if minutes else None
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    worst, seed, began = 0.0, first, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = resource.getrlimit(resource.RLIMIT_AS)
    addresses = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (addresses + CEILING_BYTES, before[1]))
    try:
        while (time.monotonic() < until) if until else (seed < first + count):
            made = edits(random.Random(f"{name} {seed}"))
            used = time.process_time()
            try:
                outcomes[_outcome(attempt, made)] += 1
            except Exception as problem:
                file = KEPT / f"{name}-{seed}.json"
                small = smaller(made, attempt, type(problem))
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps({"attack": name, "seed": seed, "edits": small}))
                failures.append(f"seed {seed}: {type(problem).__name__}: {problem}; {file}")
                if len(failures) >= 20:
                    break
            used = time.process_time() - used
            worst = max(worst, used)
            if used > CPU_S:
                failures.append(f"seed {seed}: {used:.1f} processor seconds")
            seed += 1
    finally:  # an interrupted attack has tried something, too
        resource.setrlimit(resource.RLIMIT_AS, before)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began)
        took = f"slowest {worst:.2f} CPU s, {grown / 1e6:.0f} MB more at the most"
        print(f"{name}: {seed - first} inputs {dict(outcomes)}, {len(failures)} failures, {took}", flush=True)
    if grown > GROWTH_BYTES:
        failures.append(f"the process grew by {grown / 1e6:.0f} MB")
    assert not failures, "\n".join(failures)
    return outcomes


def nothing_raised(attempt: Callable[[list[Edit]], str]) -> Callable[[list[Edit]], str]:
    """An attempt in which a named error is a failure, too."""

    def strict(edits: list[Edit]) -> str:
        try:
            return attempt(edits)
        except VlocError as problem:
            raise AssertionError(f"{type(problem).__name__}: {problem}") from problem

    return strict


def _outcome(attempt: Callable[[list[Edit]], str], edits: list[Edit]) -> str:
    try:
        return attempt(edits)
    except VlocError as problem:
        assert "\n" not in str(problem), f"more than one line: {problem}"
        return "refused"


def smaller(edits: list[Edit], attempt: Callable[[list[Edit]], str], kind: type[BaseException]) -> list[Edit]:
    """As few of the edits as fail in the same way."""
    k = 0
    while k < len(edits) and len(edits) > 1:
        fewer = edits[:k] + edits[k + 1 :]
        try:
            _outcome(attempt, fewer)
        except kind:
            edits = fewer
            continue
        except Exception:
            pass
        k += 1
    return edits
