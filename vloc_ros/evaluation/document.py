"""Reports on disk: JSON for programs, Markdown beside its pictures and one self-contained HTML file for people."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from vloc_ros.errors import ConfigError
from vloc_ros.staging import write_text

__all__ = ["Document", "plain_json", "require_jinja2", "write_json"]


def require_jinja2() -> None:
    """Ask before the work that is to be reported. :raises ConfigError: jinja2 is not installed."""
    if find_spec("jinja2") is None:
        raise ConfigError("reports need jinja2: pip install 'vloc_ros[replay]'")


@dataclass(frozen=True)
class _Block:
    """One block of a document; the templates know its kinds."""

    kind: str
    text: str = ""
    level: int = 2
    strong: bool = False
    texts: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    path: Path | None = None


class Document:
    """Collects blocks; :meth:`write` renders them with the templates of this package.

    Texts are plain: of Markdown they may hold `code` and nothing else. They may come from anywhere: what would be
    markup in HTML, or would end a cell or a line in Markdown, is escaped.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._blocks: list[_Block] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A heading of level 2 or lower."""
        self._blocks.append(_Block("heading", text, level))

    def paragraph(self, text: str, strong: bool = False) -> None:
        """A paragraph; nothing where the text is empty."""
        if text.strip():
            self._blocks.append(_Block("paragraph", text, strong=strong))

    def items(self, texts: Sequence[str]) -> None:
        """A list; nothing where it is empty."""
        if texts:
            self._blocks.append(_Block("items", texts=tuple(texts)))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; every row has as many cells as the header, which may be of empty texts."""
        cells = tuple(tuple(str(cell) for cell in row) for row in rows)
        self._blocks.append(_Block("table", header=tuple(header), rows=cells))

    def facts(self, rows: Sequence[tuple[str, Any]]) -> None:
        """A table of names and values, without a header; nothing where it is empty."""
        if rows:
            self.table(("", ""), rows)

    def picture(self, path: Path, caption: str) -> None:
        """A PNG or JPEG file, which lies in the folder of the document or elsewhere."""
        self._blocks.append(_Block("picture", caption, path=path))

    def link(self, text: str, path: Path) -> None:
        """A reference to another file."""
        self._blocks.append(_Block("link", text, path=path))

    def markdown(self, folder: Path) -> str:
        """The page for a file in ``folder``, to which paths are relative."""
        return self._render("report.md.jinja", folder)

    def html(self, folder: Path) -> str:
        """The same as HTML, with pictures inside."""
        return self._render("report.html.jinja", folder)

    def write(self, folder: Path, name: str = "report") -> Path:
        """``NAME.md`` and ``NAME.html`` in a folder; the path of the former."""
        page = folder / f"{name}.md"
        write_text(page, self.markdown(folder))
        write_text(page.with_suffix(".html"), self.html(folder))
        return page

    def _render(self, template: str, folder: Path) -> str:
        require_jinja2()
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("vloc_ros.evaluation", "templates"),
            autoescape=template.endswith(".html.jinja"),
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            undefined=jinja2.StrictUndefined,
        )
        environment.filters.update(
            markdown=_one_line,
            cell=lambda text: _one_line(text).replace("|", "\\|"),
            code=_code,
            link=lambda path: quote(Path(os.path.relpath(path, folder)).as_posix()),
            embedded=_embedded,
        )
        return environment.get_template(template).render(title=self.title, blocks=self._blocks)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _code(text: str) -> Any:
    """HTML with `code` marked up and everything else escaped."""
    import markupsafe

    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def _embedded(picture: Path) -> str:
    kind = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode('ascii')}"


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON; NaN and infinities, which JSON does not have, as null."""
    write_text(path, json.dumps(plain_json(value), indent=2, allow_nan=False) + "\n")


def plain_json(value: Any) -> Any:
    """Plain JSON values; NaN and infinities become null, and what JSON has no type for its text."""
    if isinstance(value, Mapping):
        return {str(k): plain_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return str(value)
