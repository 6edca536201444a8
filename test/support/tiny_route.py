"""Straight routes with frames at even distances."""

from __future__ import annotations

import numpy as np
from tiny_drive import CAMERA, START, Pictures

from vloc_ros.datasets.sequence import R_BODY_OPTICAL, PosedSequence


def drive(T, name="drive", start_s=0.0, spacing_s=0.2):
    stamps = START + (np.arange(len(T)) * spacing_s * 1e9 + start_s * 1e9).astype(np.int64)
    return PosedSequence(name, stamps, T, np.eye(4), CAMERA, Pictures(T))


def line(length, step=0.5, offset=(0.0, 0.0), backwards=False):
    metres = np.arange(0, length, step)
    T = np.tile(np.eye(4), (len(metres), 1, 1))
    T[:, :3, :3] = np.diag([-1.0, -1.0, 1.0]) @ R_BODY_OPTICAL if backwards else R_BODY_OPTICAL
    T[:, 0, 3] = offset[0] + (metres[::-1] if backwards else metres)
    T[:, 1, 3] = offset[1]
    return T
