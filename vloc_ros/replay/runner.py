"""``replay``: bag in; result bag, trajectory, report and plots out.

The poses depend on the bag and the map alone (a frame's randomness is seeded by map and stamp), so a replay repeats
exactly; only the measured times differ. A bag that breaks off is localized as far as it goes, everything is
written, and the result says what was wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import vloc_ros
from vloc_ros.convert.source import select_frames
from vloc_ros.convert.writer import Storage
from vloc_ros.datasets.bag.drive import NO_TRUTH, BagDrive, BagFrame, BagOptions
from vloc_ros.diagnostics import diagnose
from vloc_ros.errors import BagError
from vloc_ros.evaluation.document import require_jinja2
from vloc_ros.evaluation.figure import require_matplotlib
from vloc_ros.evaluation.metrics import FrameRecord, evaluate
from vloc_ros.evaluation.report import build_report, write_report
from vloc_ros.evaluation.trajectory import write_tum
from vloc_ros.localizers.base import Localizer, load_localizer
from vloc_ros.localizers.cascade.bundle import whole_size
from vloc_ros.localizers.device import device_name
from vloc_ros.maps import MapBundle, read_map
from vloc_ros.pipeline import Frame, FrameResult, Pipeline, PipelineSettings
from vloc_ros.replay.about import map_references, plain_settings
from vloc_ros.replay.fixes import recorded_fixes
from vloc_ros.replay.initial_poses import InitialPoses, initial_poses
from vloc_ros.replay.output import ResultBag
from vloc_ros.replay.rig import moments, other_drives, rig_of
from vloc_ros.replay.samples import CandidateSamples
from vloc_ros.tracking import Tracker, TrackerSettings
from vloc_ros.tracking.fixes import FixSettings, SatelliteFix
from vloc_ros.types import Array, Estimate

__all__ = ["ReplayResult", "replay"]


@dataclass(frozen=True)
class ReplayResult:
    """What a replay made. ``problem`` says in one line why the drive was not all there, or is empty."""

    report: dict[str, Any]
    records: list[FrameRecord]
    report_path: Path
    bag_path: Path
    problem: str = ""

    def raise_problem(self) -> None:
        """:raises BagError: something about the bag was wrong; everything that could be localized is written."""
        if self.problem:
            raise BagError(self.problem)


def replay(
    bag: str | Path,
    map_path: str | Path,
    out: str | Path,
    options: BagOptions | None = None,
    *,
    storage: Storage = "mcap",
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    tracker_settings: TrackerSettings | None = None,
    pipeline_settings: PipelineSettings | None = None,
    localizer: Localizer | None = None,
    frames: str | None = None,
    rig: Sequence[str] = (),
    fix: str | None = None,
    fix_settings: FixSettings | None = None,
    rig_tolerance_s: float = 0.02,
    initial_pose: str | None = None,
    initial_sigma: tuple[float, float] | None = None,
    plots: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ReplayResult:
    """Localize every image of a bag.

    Writes ``OUT/result`` (bag), ``OUT/trajectory.tum``, ``OUT/reference.tum``, ``OUT/report.json``,
    ``OUT/report.md``, ``OUT/report.html`` and ``OUT/plots/*.png``; earlier results in OUT are replaced.

    :param options: topics and frames of the bag; by default the usual ones.
    :param settings: settings of the backend to change.
    :param localizer: one that is already loaded from ``map_path``; it is not closed.
    :param frames: ``START:STOP:STEP`` of the images; all by default.
    :param rig: image topics of further cameras of the vehicle: the images of one moment are localized together.
    :param rig_tolerance_s: that the stamps of one moment may be apart.
    :param fix: a topic of NavSatFix, as the live node has it on ``fix``: where to look first, and a gate.
    :param initial_pose: where to look first: see :func:`vloc_ros.replay.initial_poses.initial_poses`.
    :param initial_sigma: its standard deviations, metres and degrees, in place of the usual ones.
    :raises BagError: nothing can be localized at all (no bag, empty, no images). :raises MapError: a bad map.
    :raises ConfigError: a map that needs a first pose, and none is given.
    """
    out = Path(out)
    require_jinja2()
    if plots:
        require_matplotlib()
    bundle = read_map(map_path)
    with ExitStack() as stack:
        chosen = _at_datum(options or BagOptions(), bundle)
        drive = stack.enter_context(BagDrive(bag, chosen))
        cameras_of_rig = rig_of(drive, [stack.enter_context(other) for other in other_drives(bag, chosen, rig)])
        if localizer is None:
            localizer = stack.enter_context(load_localizer(map_path, device, settings=settings))
        frame_id = bundle.manifest.scenes[0].frame_id
        start = initial_poses(initial_pose, drive, frame_id, bundle.id, localizer.needs_prior, initial_sigma)
        out.mkdir(parents=True, exist_ok=True)
        references = map_references(bundle)
        pipeline = Pipeline(localizer, pipeline_settings, Tracker(tracker_settings), fix_settings)
        indices = _indices(drive.frame_count, frames)
        samples = CandidateSamples(localizer, len(indices))
        run = _Run(
            drive,
            pipeline,
            samples if plots else None,
            references,
            start,
            cameras=cameras_of_rig,
            tolerance_s=rig_tolerance_s,
            fixes=recorded_fixes(drive, fix),
        )
        localizer.warm_up()
        names = (frame_id, drive.options.odom_frame, drive.options.base_frame, drive.camera_frame)
        with ResultBag(out / "result", storage, names, drive.has_odometry, bundle.id) as result_bag:
            run.all_frames(result_bag, indices if frames else None, progress, len(indices))
        problem = _problem(drive, run.records, tuple(run.refusals.values()))
        cameras = np.concatenate([np.zeros((0, 4, 4)), *references.values()])
        metrics = evaluate(run.records, cameras, drive.T_base_cam)
        about = {
            "bag": str(bag),
            "backend": localizer.backend,
            "map": str(map_path),
            "map_id": bundle.id,
            "device": device_name(localizer.device),
            "problem": problem,
            "truth": drive.truth_name,
            "prior": pipeline.prior,
            "initial_pose": start.description,
            "notes": [*_notes(drive, bundle), *_start_notes(start)],
            "map_bytes": whole_size(bundle),
            "settings": plain_settings(localizer),
            "skipped_messages": len(drive.skipped),
            "cameras": run.about_cameras(),
            "fix": fix or "",
            "fix_problem": pipeline.fixes.problem,
            "version": vloc_ros.__version__,
        }
    report = build_report(metrics, run.records, about)
    write_tum(out / "trajectory.tum", ((r.stamp_ns, r.T_map_base) for r in run.records if r.T_map_base is not None))
    write_tum(out / "reference.tum", ((r.stamp_ns, r.T_reference) for r in run.records if r.T_reference is not None))
    pictures = _draw(run, samples, out / "plots", cameras[:, :3, 3]) if plots else []
    path = write_report(report, out, pictures)
    return ReplayResult(report, run.records, path, out / "result", problem)


def _draw(run: _Run, samples: CandidateSamples, folder: Path, map_positions: Array) -> list[Path]:
    """All plots. They are imported here: a replay without them does not load matplotlib."""
    from vloc_ros.evaluation.plots import draw_all, draw_candidates

    pictures = draw_all(run.records, folder, map_positions)
    if samples.kept:
        places = np.array([r.T_reference[:3, 3] for r in run.records if r.T_reference is not None])
        pictures.append(draw_candidates(samples.kept, folder / "candidates.png", places))
    return pictures


@dataclass
class _Run:
    """The loop over frames, and what it remembers."""

    drive: BagDrive
    pipeline: Pipeline
    samples: CandidateSamples | None
    references: dict[str, Array]
    initial: InitialPoses
    records: list[FrameRecord] = field(default_factory=list)
    cameras: dict[str, BagDrive] = field(default_factory=dict)
    tolerance_s: float = 0.02
    #: Satellite fixes by when they were recorded, the last one first.
    fixes: list[tuple[int, SatelliteFix]] = field(default_factory=list)
    #: Images of each camera of a rig.
    images: Counter[str] = field(default_factory=Counter)
    #: The first sentence of each kind of refusal.
    refusals: dict[str, str] = field(default_factory=dict)

    def all_frames(
        self,
        result_bag: ResultBag,
        indices: set[int] | None,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        """Localize frame by frame, writing as it goes. :param indices: of the moments; None: all."""
        for index, moment in enumerate(moments(self.cameras, self.tolerance_s)):
            if indices is not None and index not in indices:
                continue
            if not self.records:
                first = next(iter(moment.values()))
                result_bag.start(first.stamp_ns or first.time_ns, self.drive.T_base_cam)
            self._one(moment, result_bag)
            if progress:
                progress(len(self.records), max(total, len(self.records)))

    def about_cameras(self) -> dict[str, dict[str, int]]:
        """Of a rig: by camera the images, and how many were left out of a frame."""
        counters = self.pipeline.counters
        return {
            name: {"images": self.images[name], "left_out": counters[f"camera_{name}_left_out"]}
            for name in self.cameras
            if name
        }

    def _member(self, name: str, bag_frame: BagFrame) -> Frame:
        drive, stamp = self.cameras[name], bag_frame.stamp_ns
        rectified, T_odom_base = bool(drive.rectified), self.drive.T_odom_base(stamp)
        return Frame(
            stamp, bag_frame.image, bag_frame.camera, rectified, bag_frame.T_base_cam, T_odom_base, name=name
        )  # fmt: skip

    def _one(self, moment: dict[str, BagFrame], result_bag: ResultBag) -> None:
        drive = self.drive
        self.images.update(moment.keys())
        bag_frame = next(iter(moment.values()))
        # As live, of a rig the latest: the stamps of successive moments rise.
        stamp = max(each.stamp_ns for each in moment.values())
        self.initial.offer(self.pipeline, drive, bag_frame)
        while self.fixes and self.fixes[-1][0] <= bag_frame.time_ns:
            self.pipeline.fixes.offer(self.fixes.pop()[1])
        T_odom_base = drive.T_odom_base(stamp)
        members = [self._member(name, each) for name, each in moment.items()]
        frame = replace(members[0], stamp_ns=stamp, T_odom_base=T_odom_base, others=tuple(members[1:]))
        if len(moment) == 1 and bag_frame.camera is None and bag_frame.problem != "no camera_info":
            result = self.pipeline.refuse(stamp, "bad_camera_info", bag_frame.problem)
        else:
            result = self.pipeline.process(frame)
        if result.refused:
            self.refusals.setdefault(result.refused, f"{result.refused}: {result.message}")
        # A stamp that was refused for itself is no query: the frame it repeats or precedes has been counted.
        is_query = not (result.refused or "").startswith("stamp_")
        T_reference = drive.T_map_base(stamp) if is_query else None
        diagnostic = diagnose(self.pipeline.snapshot())
        if result.refused:
            result_bag.diagnostics(bag_frame.time_ns, diagnostic)
        else:
            result_bag.frame(result, diagnostic, T_odom_base, T_reference)
        if self.samples is not None and result.estimate is not None:
            T_map_cam = None if T_reference is None else T_reference @ bag_frame.T_base_cam
            self.samples.offer(len(self.records), frame, T_map_cam)
        self.records.append(self._record(result, T_reference, drive.truth_covariance(stamp)))

    def _record(self, result: FrameResult, T_reference: Array | None, covariance: Array | None) -> FrameRecord:
        return FrameRecord(
            stamp_ns=result.stamp_ns,
            state=result.state,
            T_map_base=result.T_map_base if result.publish else None,
            covariance=result.covariance_base if result.publish else None,
            T_reference=T_reference,
            covariance_reference=covariance,
            score=result.estimate.score if result.estimate is not None else float("nan"),
            refused=result.refused or "",
            timings_ms=result.timings_ms if result.refused is None else {},
            T_retrieved=self._retrieved(result.estimate, result.T_base_cam),
            T_estimated=result.T_map_base,
        )

    def _retrieved(self, estimate: Estimate | None, T_base_cam: Array | None) -> Array | None:
        """The base at the map image that looks most alike, where the backend names it (``nearest_reference``)."""
        if estimate is None or "nearest_reference" not in estimate.diagnostics:
            return None
        cameras = self.references.get(estimate.scene)
        index = int(estimate.diagnostics["nearest_reference"])
        if cameras is None or not 0 <= index < len(cameras):
            return None
        out: Array = cameras[index] @ np.linalg.inv(self.drive.T_base_cam if T_base_cam is None else T_base_cam)
        return out


def _notes(drive: BagDrive, bundle: MapBundle) -> list[str]:
    notes = []
    scene = bundle.manifest.scenes[0]
    map_frame, datum = scene.frame_id, drive.datum
    if drive.has_truth and None not in (datum, scene.datum) and datum != scene.datum:
        notes.append(f"the truth is in a frame at {datum}, the map in one at {scene.datum}: errors are no errors")
    if drive.has_truth and drive.frame_id != map_frame:
        notes.append(
            f"the truth is in frame {drive.frame_id!r}, the map in {map_frame!r}: errors assume that they are one"
        )
    if drive.skipped:
        notes.append(f"{len(drive.skipped)} messages were skipped; first: {drive.skipped[0]}")
    return notes


def _start_notes(start: InitialPoses) -> list[str]:
    if not start.description:
        return []
    return [f"initial pose: {start.description} ({start.given} given)", *start.notes]


def _at_datum(options: BagOptions, bundle: MapBundle) -> BagOptions:
    """Satellite fixes are told in the map's frame, not in one of the drive's own."""
    datum = bundle.manifest.scenes[0].datum
    if datum is None or options.datum is not None:
        return options
    return replace(options, datum=(datum.latitude_deg, datum.longitude_deg, datum.altitude_m))


def _indices(total: int, wanted: str | None) -> set[int]:
    return set(select_frames(total, wanted).tolist()) if wanted else set(range(total))


def _problem(drive: BagDrive, records: list[FrameRecord], sentences: Sequence[str] = ()) -> str:
    """What was wrong with the drive, in one line. :param sentences: one for each kind of refusal."""
    path = drive.reader.path
    posed = sum(r.published for r in records)
    done = f"{posed} of {len(records)} frames were localized and written"
    if drive.reader.problem:
        return f"{path}: {drive.reader.problem}; {done}"
    if not drive.has_truth and drive.options.truth != NO_TRUTH:
        return f"{path}: the bag has images but no truth, so errors are unknown; {done} (intended? say --truth none)"
    if drive.has_truth and records and not any(r.T_reference is not None for r in records):
        return f"{path}: no image has a reference pose: {drive.missing_truth()}; {done}"
    if records and all(r.refused for r in records):
        return f"{path}: every frame was refused: {'; '.join(sentences) or 'no reason'}"
    return ""
