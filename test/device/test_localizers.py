"""Every backend on a device that is elsewhere: nothing mixes, the pose is the CPU's, and what is asked for is counted.

The rules of counting are those of :mod:`bench.simulated_device`. A budget is what a query may cost, not what it costs:
a change that needs more has to say so here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vloc_ros
from bench.simulated_device import Counts, simulated_device
from vloc_ros.datasets import open_sequence
from vloc_ros.images.preprocess import Preprocess
from vloc_ros.localizers.base import Localizer, backend_class
from vloc_ros.localizers.folding import without_batch_norms
from vloc_ros.localizers.image_network import ImageNetwork
from vloc_ros.localizers.imposing.network import ImPosingNetwork
from vloc_ros.localizers.imposing.search import draw, search
from vloc_ros.localizers.imposing.settings import NetworkSettings, SearchSettings
from vloc_ros.localizers.imposing.signatures import FrozenPoseEncoder
from vloc_ros.localizers.recorder import Recorder
from vloc_ros.maps import read_map
from vloc_ros.types import View

MAPS = Path(__file__).parents[1] / "data" / "maps_0_1"


@dataclass(frozen=True)
class Budget:
    """Most launches, waits and uploads of a query."""

    launches: int
    waits: int
    uploads: int


BUDGETS = {
    "imposing": Budget(15, 1, 2),
    "retrieval": Budget(12, 1, 1),
    "copr": Budget(12, 1, 1),
    "irpnet.vmap": Budget(12, 1, 2),
    "camnet": Budget(12, 1, 2),
    "pixloc": Budget(240, 1, 4),
    "features": Budget(130, 2, 5),
    # Its coarse map is poor: six places are tried before it gives up. A chain whose first one is borne out waits twice.
    "cascade": Budget(1250, 7, 24),
}


@pytest.fixture(scope="module")
def sequence():
    return open_sequence(MAPS / "drive")


def query(sequence, prior: bool, index: int = 5) -> vloc_ros.Query:
    pose = sequence.T_map_cam[index]
    found = vloc_ros.PosePrior(pose, np.diag([0.25] * 3 + [0.01] * 3)) if prior else None
    return vloc_ros.Query(sequence.image(index), sequence.camera, int(sequence.stamps_ns[index]), prior=found)


def asked(localizer: Localizer, question: vloc_ros.Query, counted) -> tuple[vloc_ros.Estimate, Counts]:
    """The third time: what is made once is there, and recorded work is replayed, with the same numbers."""
    launched, _ = localizer.localize(question), localizer.localize(question)
    counted()
    replayed, counts = localizer.localize(question), counted()
    np.testing.assert_array_equal(replayed.T_map_cam, launched.T_map_cam)
    np.testing.assert_array_equal(replayed.covariance, launched.covariance)
    assert replayed.state is launched.state and replayed.score == launched.score
    return replayed, counts


def test_imposing_at_the_papers_settings_launches_few_operations_where_nothing_is_recorded():
    network, settings = ImPosingNetwork(NetworkSettings()).eval().requires_grad_(False), SearchSettings(candidates=256)
    images = network.image_encoder
    images.backbone = without_batch_norms(images.backbone)
    with simulated_device(records=False) as (device, counted), torch.inference_mode():
        read = ImageNetwork(lambda x: (images(x),), Preprocess(64, 32), torch.float32, Recorder(device))
        network.to(device)
        encoder = FrozenPoseEncoder(network.pose_encoder(), torch.float32, torch.float32)
        initial = torch.rand(256, 7).to(device)
        columns = encoder.columns(initial.T)
        for _ in range(2):  # constants go up once
            counted()
            (vector,) = read(np.zeros((48, 96, 3), dtype=np.uint8))
            found = search(encoder, vector[0], initial, columns, draw(settings, 0, device, torch.float32), settings)
            found.on_host()
            counts = counted()
    assert counts.launches <= 290, counts.places("launch", 25)
    assert (counts.waits, counts.uploads, counts.uploaded_bytes) == (1, 1, 64 * 32 * 3)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_query_keeps_to_its_budget_and_gives_the_cpus_pose(name, sequence):
    bundle, budget = read_map(MAPS / name), BUDGETS[name]
    on_cpu = backend_class(bundle.manifest.backend).from_map(bundle, torch.device("cpu"))
    with simulated_device() as (device, counted):
        there = backend_class(bundle.manifest.backend).from_map(bundle, device)
        for prior in (False, True):
            question = query(sequence, prior, 7 if name == "cascade" else 5)
            if there.needs_prior and not prior:
                continue
            estimate, counts = asked(there, question, counted)
            expected = on_cpu.localize(question)
            np.testing.assert_allclose(estimate.T_map_cam, expected.T_map_cam, atol=1e-4)
            assert estimate.state is expected.state
            assert counts.launches <= budget.launches, counts.places("launch", 25)
            assert counts.waits <= budget.waits, counts.places("wait")
            assert counts.uploads <= budget.uploads, counts.places("upload")


def test_launches_of_pixloc_do_not_multiply_by_the_cameras_of_a_rig(sequence):
    bundle = read_map(MAPS / "pixloc")
    front = query(sequence, True)
    side = np.eye(4)
    side[0, 3] = 0.1
    views = tuple(View(front.image_rgb, front.camera, side, name) for name in ("second", "third"))
    rig = replace(front, others=views)
    on_cpu = backend_class("pixloc").from_map(bundle, torch.device("cpu"), {"min_peak_share": 0.0})
    with simulated_device() as (device, counted):
        there = backend_class("pixloc").from_map(bundle, device, {"min_peak_share": 0.0})
        estimate, counts = asked(there, rig, counted)
    expected = on_cpu.localize(rig)
    assert estimate.diagnostics["rig_fused"] == expected.diagnostics["rig_fused"] == 3.0
    np.testing.assert_allclose(estimate.T_map_cam, expected.T_map_cam, atol=1e-4)
    budget = BUDGETS["pixloc"]
    # Three cameras for less than two: only what is read from the map is read for each.
    assert counts.launches <= 2 * budget.launches - 60, counts.places("launch", 25)
    assert counts.waits <= budget.waits and counts.uploads <= 3 * budget.uploads, counts.places("upload")


def test_neither_places_nor_cameras_make_features_wait_again(sequence):
    bundle = read_map(MAPS / "features")
    one, side = query(sequence, False), vloc_ros.types.View(sequence.image(7), sequence.camera, np.eye(4), "side")
    waits = []
    with simulated_device() as (device, counted):
        for hypotheses, others in ((1, ()), (8, ()), (8, (side, side))):
            there = backend_class("features").from_map(bundle, device, {"hypotheses": hypotheses})
            _, counts = asked(there, replace(one, others=others), counted)
            waits.append(counts.waits)
    assert waits == [2, 2, 2]
