"""What a protocol needs on disk: asked for before anything is computed, with the place to get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vloc_ros.errors import DatasetError
from vloc_train.benchmark.protocol import SPECIAL, Protocol, Row, Selection

__all__ = ["SITES", "needed", "require_data"]

#: The data sets of the layouts and where they are given out, by the layout's name.
SITES = {
    "robotcar": "Oxford RobotCar, https://robotcar-dataset.robots.ox.ac.uk",
    "robotcar_seasons": "RobotCar Seasons, https://www.visuallocalization.net/datasets/",
    "fourseasons": "4Seasons, https://www.4seasons-dataset.com",
    "seven_scenes": "7-Scenes, https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    "cambridge": "Cambridge Landmarks, https://www.repository.cam.ac.uk (search for PoseNet)",
    "apolloscape": "ApolloScape self-localization, https://apolloscape.auto/self_localization.html",
    "kitti": "KITTI odometry, https://www.cvlibs.net/datasets/kitti/eval_odometry.php",
    "tum": "TUM RGB-D, https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
    "euroc": "EuRoC MAV, https://projects.asl.ethz.ch/datasets/doku.php?id=kmavvisualinertialdatasets",
}


def needed(protocol: Protocol, chosen: Mapping[str, Sequence[Row]], strays: bool = True) -> list[str]:
    """Names of the drives that lie on disk and that these rows, their steps and the stray tests ask for."""
    texts: list[Selection] = []
    steps = {step for rows in chosen.values() for row in rows for step in protocol.order(row.map)}
    for split in chosen:
        texts += [Selection.parse(t, split) for t in (*protocol.splits[split].map, *protocol.splits[split].query)]
    for stray in protocol.strays if strays else ():
        steps |= {step for name in (stray.map, stray.regressor) for step in protocol.order(name)}
        given = protocol.splits[stray.split]
        texts += [Selection.parse(t, "strays") for t in (*stray.strays, *given.map, *given.query)]
    for step in steps:
        for kind in ("data", "calibration"):
            texts += [s for group in protocol.steps[step].selections(kind).values() for s in group]
    names = {selection.name for selection in texts if selection.name not in SPECIAL}
    return [name for name, drive in protocol.data.items() if name in names and drive.path is not None]


def require_data(protocol: Protocol, names: Sequence[str], root: Path | None) -> None:
    """Refuse to begin without the folders of these drives.

    :raises DatasetError: some are not there; the message lists where they were looked for, and where to get them.
    """
    paths = {name: protocol.data[name].path or "" for name in names}
    absent = [name for name in names if root is None or not (root / paths[name]).exists()]
    if not absent:
        return
    if root is None:
        parts = [f"{protocol.name}: expected --root, the folder that holds {', '.join(sorted(set(paths.values())))}"]
    else:
        found = ", ".join(dict.fromkeys(str(root / paths[name]) for name in absent))
        parts = [
            f"{protocol.name}: expected data in {len(names)} folders, found nothing at {len(absent)} of them: {found}"
        ]
    parts += dict.fromkeys(f"to get it: {site}" for name in absent if (site := _site(protocol, name)))
    if root is not None:
        parts.append("--root names the folder that holds these; --only computes rows that need fewer of them")
    raise DatasetError("; ".join(parts))


def _site(protocol: Protocol, name: str) -> str:
    source = protocol.data[name].source
    return "" if source is None else source.get or SITES.get(source.format, "")
