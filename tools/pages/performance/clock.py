"""Wall clock: the pack's graph in the host, the share of the models, and the reference plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hypir.priors import SD2
from hypir.tiling import CELL_PX
from tools.pages.performance import models, reference
from tools.pages.performance.host import Host

STAGES = ("encode", "step", "decode")


@dataclass
class Times:
    """Seconds of one run."""

    total: float = 0.0
    cpu: float = 0.0
    """CPU seconds of the process, all threads: less disturbed by other programs."""
    models: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    peak_vram: int = 0
    """Peak allocation on the GPU above the starting level, 0 without a GPU."""

    @property
    def in_models(self) -> float:
        return sum(self.models.values())

    @property
    def overhead(self) -> float:
        """Total / time inside the networks."""
        return self.total / self.in_models


class Stopwatch:
    """Adds up the time inside the networks."""

    def __init__(self) -> None:
        self.times = Times()

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Time every call of owner.name as part of a stage."""
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            try:
                return original(*args, **kwargs)
            finally:
                self.times.models[stage] += now() - start

        setattr(owner, name, timed)

    def run(self, graph: Callable[[], Any]) -> Times:
        """Times of one run of the graph."""
        self.times = times = Times()
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start, cpu = now(), time.process_time()
        graph()
        times.total, times.cpu = now() - start, time.process_time() - cpu
        if cuda:
            times.peak_vram = torch.cuda.max_memory_allocated() - before
        return times


def now() -> float:
    """Seconds, after the GPU has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def picture(px: int) -> Tensor:
    """A random image (1, px, px, 3)."""
    return torch.rand(1, px, px, 3, generator=torch.Generator().manual_seed(0))


def graph_of_pack(host: Host, model: Any, vae: Any, px: int) -> Callable[[], Tensor]:
    """Encode, Restore, Decode with wavelet colours, as the nodes do it."""
    image, positive = picture(px), [[models.context(), {}]]

    def graph() -> Tensor:
        with torch.inference_mode():
            samples = host.run("HYPIREncode", image=image, vae=vae)
            samples = host.run("HYPIRRestore", model=model, positive=positive, samples=samples)
            return host.run("HYPIRDecode", samples=samples, vae=vae, reference=image)

    return graph


def watch_pack(model: Any, vae: Any) -> Stopwatch:
    """A stopwatch around the host's networks."""
    watch = Stopwatch()
    watch.watch(vae.first_stage_model, "encode", "encode")
    watch.watch(model.model.diffusion_model, "forward", "step")
    watch.watch(vae.first_stage_model, "decode", "decode")
    return watch


class Reference:
    """The reference plan on diffusers' models, with the LoRA unmerged, as peft keeps it."""

    def __init__(self, dtype: torch.dtype, lora: dict[str, Tensor], device: str):
        self.dtype, self.device = dtype, device
        self.unet = models.make_unet(device, dtype)
        models.add_lora(self.unet)
        models.load_lora_into(self.unet, lora)
        torch.nn.Module.to(self.unet, device, dtype)
        self.vae = models.make_vae(device, dtype)
        self.text = models.context(device, dtype)
        self.watch = Stopwatch()
        self.watch.watch(self.vae, "encode", "encode")
        self.watch.watch(self.unet, "forward", "step")
        self.watch.watch(self.vae, "decode", "decode")

    def graph(self, px: int) -> Callable[[], Tensor]:
        """The three stages and the colour transfer on a square picture."""
        image = picture(px).movedim(-1, 1)  # BHWC -> BCHW
        level = SD2.level(SD2.timestep)
        times = torch.tensor([SD2.timestep], device=self.device)

        def encode(pixels: Tensor) -> Tensor:
            tile = pixels.mul(2).sub(1).to(self.device, self.dtype)
            return self.vae.encode(tile).latent_dist.mean.mul(SD2.latent_scale).cpu()

        def step(z: Tensor) -> Tensor:
            tile = z.to(self.device, self.dtype)
            eps = self.unet(tile, times, self.text).sample
            return ((tile - level.sigma * eps) / level.alpha).cpu()

        def decode(z: Tensor) -> Tensor:
            tile = z.div(SD2.latent_scale).to(self.device, self.dtype)
            return self.vae.decode(tile).sample.float().add(1).div(2).cpu()

        def graph() -> Tensor:
            with torch.inference_mode():
                z = reference.run_stage(image, encode, 4, scale_in=CELL_PX)
                z = reference.run_stage(z, step, 4)
                out = reference.run_stage(z, decode, 3, scale_out=CELL_PX).float()
                return reference.transfer_color(out, image).clamp(0, 1)

        return graph
