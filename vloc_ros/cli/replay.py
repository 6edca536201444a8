"""``vloc replay``: a recorded drive through a map."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, cast

import typer

from vloc_ros.cli.progress import progress_bar

__all__ = ["StorageName", "replay"]


class StorageName(str, Enum):
    """Storage plugins of rosbag2."""

    mcap = "mcap"
    sqlite3 = "sqlite3"


def replay(
    bag: Annotated[Path, typer.Argument(metavar="BAG", help="rosbag2 folder, .mcap, .db3, or ROS 1 .bag.")],
    map_path: Annotated[Path, typer.Option("--map", help="Map directory or .vmap file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the result bag, trajectory, report and plots.")],
    truth: Annotated[
        str | None,
        typer.Option(
            "--truth",
            metavar="TOPIC",
            help="Reference poses: a topic, /tf:map.base_link, or none. Default: /reference/pose.",
        ),
    ] = None,
    storage: Annotated[StorageName, typer.Option("--storage", help="Storage of the result bag.")] = StorageName.mcap,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    image: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="TOPIC", help="Image topic where the bag has several; repeat it for a rig."),
    ] = None,
    rig_tolerance: Annotated[
        float, typer.Option("--rig-tolerance", min=0.0, help="Seconds that stamps of one moment of a rig are apart.")
    ] = 0.02,
    camera_info: Annotated[
        str | None, typer.Option("--camera-info", metavar="TOPIC", help="Default: beside the image topic.")
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option("--fix", metavar="TOPIC", help="NavSatFix: where to look first, and a gate for first fixes."),
    ] = None,
    odometry: Annotated[
        str | None, typer.Option("--odometry", metavar="TOPIC", help="Default: /odometry, else TF.")
    ] = None,
    time_offset: Annotated[
        float, typer.Option("--time-offset", help="Seconds to add to the stamps of --truth to get the images' clock.")
    ] = 0.0,
    max_gap_s: Annotated[
        float, typer.Option("--max-gap-s", min=0.0, help="Reference poses further apart are not interpolated between.")
    ] = 0.5,
    extrinsics: Annotated[
        str | None,
        typer.Option(help="Camera in the base, instead of /tf_static: x,y,z,roll,pitch,yaw, or 12 or 16 numbers."),
    ] = None,
    heading: Annotated[
        str | None, typer.Option(metavar="TOPIC", help="With --truth of NavSatFix: a topic, or course.")
    ] = None,
    antenna: Annotated[str | None, typer.Option(help="With --truth of NavSatFix: x,y,z of the antenna.")] = None,
    origin: Annotated[
        str | None,
        typer.Option(metavar="X,Y,Z", help="With --truth in large coordinates (UTM): the map's origin in them, m."),
    ] = None,
    base_frame: Annotated[str, typer.Option("--base-frame", help="The frame whose pose is published.")] = "base_link",
    odom_frame: Annotated[str, typer.Option("--odom-frame", help="The frame that odometry drifts in.")] = "odom",
    rectified: Annotated[
        bool | None,
        typer.Option("--rectified/--raw-image", help="Images are rectified; default: from the topic's name."),
    ] = None,
    frames: Annotated[
        str | None, typer.Option("--frames", metavar="START:STOP:STEP", help="Only some of the images.")
    ] = None,
    initial_pose: Annotated[
        str | None,
        typer.Option(
            "--initial-pose",
            metavar="POSE",
            help="Where to look first: X,Y,Z,ROLL,PITCH,YAW (m, deg), truth, a topic of the bag, a pose file, or none.",
        ),
    ] = None,
    initial_sigma: Annotated[
        str | None,
        typer.Option(
            "--initial-sigma", metavar="M,DEG", help="Its standard deviations; default: the message's, or usual."
        ),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw plots (needs matplotlib).")] = True,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the backend; repeatable."),
    ] = None,
) -> None:
    """Localize a recorded drive: result bag, trajectory.tum, report.json, report.md and plots."""
    from vloc_ros.datasets.bag.drive import BagOptions
    from vloc_ros.evaluation.report import print_table
    from vloc_ros.replay import replay as run
    from vloc_ros.replay.initial_poses import parse_sigma
    from vloc_ros.settings import assigned, numbers_of

    settings = assigned(set_ or [], "--set")

    options = BagOptions(
        image=image[0] if image else None,
        camera_info=camera_info,
        truth=truth,
        odometry=odometry,
        base_frame=base_frame,
        odom_frame=odom_frame,
        image_is_rectified=rectified,
        time_offset_s=time_offset,
        max_gap_s=max_gap_s,
        extrinsics=numbers_of("--extrinsics", extrinsics, (6, 12, 16)),
        heading=heading,
        antenna=cast("tuple[float, float, float] | None", numbers_of("--antenna", antenna, (3,))),
        origin=cast("tuple[float, float, float] | None", numbers_of("--origin", origin, (3,))),
    )
    with progress_bar("localizing") as progress:
        result = run(
            bag,
            map_path,
            out,
            options,
            storage=storage.value,
            device=device,
            settings=settings,
            frames=frames,
            rig=(image or [])[1:],
            fix=fix,
            rig_tolerance_s=rig_tolerance,
            initial_pose=initial_pose,
            initial_sigma=parse_sigma(initial_sigma),
            plots=plots,
            progress=progress,
        )
    print_table(result.report)
    typer.echo(f"report {result.report_path}, result bag {result.bag_path}")
    result.raise_problem()
