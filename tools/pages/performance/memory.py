"""Peak memory without the weights, the input image and the output image.

The pack's own nodes run on images of the real size. Where they call a network, a stand-in counts
the bytes that the full-size network needs for that tile, measured on the meta device. So the result
is exact for every size and needs no computation. Attention counts as fused, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from hypir.tiling import CELL_PX
from hypir.train.plan.live_bytes import LiveBytes
from tools.pages.performance import models, reference
from tools.pages.performance.host import Host, meta_networks

DTYPE = torch.bfloat16
MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """Bytes by stage."""

    encode: int
    step: int
    decode: int

    @property
    def total(self) -> int:
        return max(self.encode, self.step, self.decode)


@cache
def _networks() -> tuple[Any, Any]:
    return meta_networks(DTYPE)


@cache
def bytes_of_call(stage: str, batch: int, height: int, width: int) -> int:
    """Peak of activations during one call of a network, including its result."""
    with _disable_current_modes():  # an outer count must not include the probe
        return _probe(stage, batch, height, width)


def _probe(stage: str, batch: int, height: int, width: int) -> int:
    unet, vae = _networks()
    latent = torch.empty(batch, 4, height, width, device="meta", dtype=DTYPE)
    pixels = torch.empty(batch, 3, height * CELL_PX, width * CELL_PX, device="meta", dtype=DTYPE)
    text = models.context("meta", DTYPE).expand(batch, -1, -1)
    times = torch.empty(batch, device="meta")
    calls: dict[str, Callable[[], Tensor]] = {
        "encode": lambda: vae.encode(pixels),
        "step": lambda: unet(latent, times, context=text),
        "decode": lambda: vae.decode(latent),
    }
    with torch.inference_mode(), LiveBytes() as tracked:
        calls[stage]()
    return tracked.peak


class StandIns:
    """Replacements of the networks: they count the networks' bytes in `tracked` and return a
    constant."""

    def __init__(self) -> None:
        self.tracked: LiveBytes | None = None

    def encode(self, pixels: Tensor, **_: Any) -> Tensor:
        batch, _, height, width = pixels.shape
        cells = height // CELL_PX, width // CELL_PX
        return self._answer("encode", pixels, (batch, 4, *cells), cells)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        batch, _, h, w = latent.shape
        return self._answer("decode", latent, (batch, 3, h * CELL_PX, w * CELL_PX), (h, w))

    def step(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return self._answer("step", x, tuple(x.shape), tuple(x.shape[-2:])).to(x.dtype)

    def _answer(
        self, stage: str, like: Tensor, shape: tuple[int, ...], cells: tuple[int, int]
    ) -> Tensor:
        tracked = self.tracked
        if tracked is not None:
            tracked.burst(bytes_of_call(stage, shape[0], *cells))
        return torch.full(shape, 0.1, dtype=DTYPE, device=like.device)


def put_in(stand_ins: StandIns, model: Any, vae: Any) -> None:
    """Replace the networks of a MODEL and a VAE."""
    vae.first_stage_model.encode = stand_ins.encode
    vae.first_stage_model.decode = stand_ins.decode
    model.model.diffusion_model.forward = stand_ins.step


def peak_of_plan(host: Host, model: Any, vae: Any, stand_ins: StandIns, px: int) -> Peak:
    """The pack's three nodes on a square picture, wavelet colours included."""
    image = torch.rand(1, px, px, 3, generator=torch.Generator().manual_seed(0))
    positive = [[models.context(), {}]]
    peaks, samples = [], None
    for stage in ("encode", "step", "decode"):
        with torch.inference_mode(), LiveBytes() as tracked:
            stand_ins.tracked = tracked
            if stage == "encode":
                samples = host.run("HYPIREncode", image=image, vae=vae)
            elif stage == "step":
                samples = host.run("HYPIRRestore", model=model, positive=positive, samples=samples)
            else:
                host.run("HYPIRDecode", samples=samples, vae=vae, reference=image)
        peaks.append(tracked.peak)
    stand_ins.tracked = None
    final = image.numel() * image.element_size()
    return Peak(peaks[0], peaks[1], peaks[2] - final)


def peak_of_reference(stand_ins: StandIns, px: int) -> Peak:
    """The reference plan, whole-picture colour transfer included; on the meta device."""
    image = torch.empty(1, 3, px, px, device="meta")
    peaks, z = [], None
    for stage in ("encode", "step", "decode"):
        with torch.inference_mode(), LiveBytes() as tracked:
            stand_ins.tracked = tracked
            if stage == "encode":
                z = reference.run_stage(image, stand_ins.encode, 4, scale_in=CELL_PX)
            elif stage == "step":
                z = reference.run_stage(z, stand_ins.step, 4)
            else:
                out = reference.run_stage(z, stand_ins.decode, 3, scale_out=CELL_PX).float()
                reference.transfer_color(out, image)
        peaks.append(tracked.peak)
    stand_ins.tracked = None
    final = image.numel() * image.element_size()
    return Peak(peaks[0], peaks[1], peaks[2] - final)


def peak_of_limit() -> Peak:
    """One 512 px tile and nothing else."""
    side = reference.TILE
    return Peak(*(bytes_of_call(stage, 1, side, side) for stage in ("encode", "step", "decode")))
