"""What the localizer thinks, drawn into the camera's image: state, score, pose, and the candidates from above."""

from __future__ import annotations

import cv2
import numpy as np

from vloc_ros.types import Array, Estimate, LocalizationState, RgbImage

__all__ = ["draw_debug_image"]

COLOURS = {
    LocalizationState.INITIALIZING: (160, 160, 160),
    LocalizationState.LOCALIZED: (40, 200, 80),
    LocalizationState.DEGRADED: (240, 180, 40),
    LocalizationState.LOST: (230, 60, 60),
}


def draw_debug_image(image_rgb: RgbImage, estimate: Estimate | None, state: LocalizationState, note: str) -> RgbImage:
    """A copy of ``image_rgb`` (H, W, 3) with a caption and, when there are candidates, an inset of the map's x-y plane.

    :param estimate: of the same frame, or None when it was refused.
    :param note: one more line, for instance why the frame was refused.
    """
    out = np.ascontiguousarray(image_rgb).copy()
    height, width = out.shape[:2]
    scale = max(0.35, min(1.0, width / 900.0))
    lines = [state.value]
    if estimate is not None:
        x, y, z = estimate.T_map_cam[:3, 3]
        sigma = np.sqrt(np.clip(np.diag(estimate.covariance)[:3], 0.0, None))
        lines.append(f"score {estimate.score:.2f}  camera {x:.2f} {y:.2f} {z:.2f}  sigma {sigma.max():.2f} m")
    if note:
        lines.append(note)
    step = int(26 * scale)
    for row, line in enumerate(lines):
        origin = (int(8 * scale), step * (row + 1))
        cv2.putText(out, line, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(out, line, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, COLOURS[state], 1, cv2.LINE_AA)
    if estimate is not None and estimate.candidates:
        side = min(height, width) // 3
        inset = _plan(estimate.candidates[-1].T_map_cam[:, :2, 3], estimate.T_map_cam[:2, 3], side, COLOURS[state])
        out[height - side :, width - side :] = inset
    return out


def _plan(candidates: Array, position: Array, side: int, colour: tuple[int, int, int]) -> RgbImage:
    """Candidates (N, 2) and the estimate, seen from above, north up, scaled to the candidates' spread."""
    plan = np.full((side, side, 3), 32, np.uint8)
    radius = max(float(np.abs(candidates - position).max()), 0.5) * 1.1
    pixels = (candidates - position) / radius * (side / 2) * (1, -1) + side / 2
    for u, v in pixels:
        cv2.circle(plan, (int(u), int(v)), 1, (150, 150, 220), -1)
    cv2.circle(plan, (side // 2, side // 2), max(2, side // 40), colour, -1)
    cv2.putText(
        plan, f"+-{radius:.1f} m", (3, side - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.3, (200, 200, 200), 1, cv2.LINE_AA
    )
    return plan
