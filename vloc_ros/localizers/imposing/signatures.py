"""Signatures of many poses at once, by a pose encoder whose weights do not change any more (Section 3.1, step 3).

Poses run along the last axis, so that every number of them is one contiguous row. What does not depend on the poses is
made once: positions are scaled, rotations become matrix entries, and all are multiplied by the frequencies in a single
product, whose rows stand in the order in which sines and cosines of them are asked for.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from vloc_ros.localizers.imposing.network import PoseEncoder, rotation_entries

__all__ = ["FrozenPoseEncoder"]


class FrozenPoseEncoder:
    """What :meth:`.network.PoseEncoder.forward` gives, without gradients and faster.

    :param encoder: on the device; its weights are copied.
    :param dtype: of the poses. :param compute: of the layers and of the signatures: features are rounded to it only
        when they are done.
    """

    def __init__(self, encoder: PoseEncoder, dtype: torch.dtype, compute: torch.dtype) -> None:
        s = encoder.settings
        with torch.inference_mode(False), torch.no_grad():
            self._quaternions = s.rotation_input == "quaternion"
            products, constant = (None, None) if self._quaternions else rotation_entries()
            rotations = torch.eye(4) if products is None else products.T
            scale = (math.pi / encoder.half_extent.detach()).cpu().to(dtype)
            widths, terms = (3, len(rotations)), (s.position_octaves, s.rotation_octaves)
            # Rows: what is encoded, positions and rotations; then the angles of each.
            encoded = torch.zeros(3 + len(rotations), 3 + rotations.shape[1], dtype=dtype)
            encoded[:3, :3], encoded[3:, 3:] = torch.eye(3, dtype=dtype) * scale, rotations
            offsets = torch.cat((torch.zeros(3), torch.zeros(widths[1]) if constant is None else constant)).to(dtype)
            rates = [_rates(n, s.frequencies, dtype).repeat(width) for width, n in zip(widths, terms, strict=True)]
            component = torch.arange(sum(widths)).repeat_interleave(
                torch.tensor([terms[0]] * 3 + [terms[1]] * widths[1])
            )
            rate = torch.cat(rates)
            device = encoder.half_extent.device
            self._matrix = torch.cat((encoded, encoded[component] * rate[:, None])).to(device)
            self._offsets = torch.cat((offsets, offsets[component] * rate))[:, None].to(device)
            self._centre = encoder.centre.detach().to(device, dtype)[:, None].clone()
            self._one = torch.ones((), dtype=dtype, device=device)
            self._encoded, self._angles = sum(widths), len(rate)
            linears = [cast(nn.Linear, layer) for layer in encoder.linears]
            weights = [layer.weight.detach().to(compute) for layer in linears]
            weights[0] = weights[0][:, _order(widths, terms).to(device)]
            self._layers = [
                (weight.contiguous(), layer.bias.detach().to(compute, copy=True)[:, None])
                for weight, layer in zip(weights, linears, strict=True)
            ]

    def columns(self, poses: Tensor) -> Tensor:
        """Signatures ``(d, N)``, not normalised, of poses ``(7, N)``."""
        count = poses.shape[1]
        given = poses.new_empty(self._matrix.shape[1], count)
        torch.sub(poses[:3], self._centre, out=given[:3])
        q = poses[3:]
        if self._quaternions:  # q and -q, the same rotation, encode alike
            torch.mul(q, torch.copysign(self._one, q[3]), out=given[3:])
        else:
            torch.mul(q[:, None], q[None], out=given[3:].view(4, 4, count))
        rows = torch.addmm(self._offsets, self._matrix, given)
        weight, bias = self._layers[0]
        x = torch.empty(weight.shape[1], count, dtype=weight.dtype, device=poses.device)
        x[: self._encoded] = rows[: self._encoded]
        torch.sin(rows[self._encoded :], out=x[self._encoded : -self._angles])
        torch.cos(rows[self._encoded :], out=x[-self._angles :])
        x = torch.addmm(bias, weight, x)
        for weight, bias in self._layers[1:]:
            x = torch.addmm(bias, weight, x.clamp_min_(0))
        return x


def _rates(terms: int, frequencies: str, dtype: torch.dtype) -> Tensor:
    k = torch.arange(terms, dtype=dtype)
    return torch.pow(2.0, k) if frequencies == "octaves" else 2.0 * k


def _order(widths: tuple[int, int], terms: tuple[int, int]) -> Tensor:
    """Where what the network reads stands among its inputs: both parts as they are, sines of both, cosines of both."""
    sizes = [size for width, n in zip(widths, terms, strict=True) for size in (width, width * n, width * n)]
    plain_a, sine_a, cosine_a, plain_b, sine_b, cosine_b = torch.split(torch.arange(sum(sizes)), sizes)
    return torch.cat((plain_a, plain_b, sine_a, sine_b, cosine_a, cosine_b))
