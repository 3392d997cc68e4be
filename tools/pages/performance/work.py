"""FLOPs of the three stages, counted on the meta device: one call per shape of tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from hypir.priors import SD2
from hypir.tiling import CELL_PX, VAE_COST, TilePlan, plan_tiles
from tools.pages.performance import models, reference

TERA = 1e12


@dataclass(frozen=True)
class Work:
    """TFLOP by stage."""

    encode: float
    step: float
    decode: float

    @property
    def total(self) -> float:
        return self.encode + self.step + self.decode


@cache
def _vae():
    return models.make_vae("meta")


@cache
def _unet(lora: bool):
    unet = models.make_unet("meta")
    if lora:
        with torch.device("meta"):
            models.add_lora(unet)
    return unet


@cache
def count_encode(height: int, width: int) -> float:
    """TFLOP of the encoder on one tile of this many cells."""
    pixels = torch.empty(1, 3, height * CELL_PX, width * CELL_PX, device="meta")
    return _count(lambda: _vae().encode(pixels))


@cache
def count_decode(height: int, width: int) -> float:
    """TFLOP of the decoder."""
    latent = torch.empty(1, 4, height, width, device="meta")
    return _count(lambda: _vae().decode(latent))


@cache
def count_tiny(height: int, width: int) -> float:
    """TFLOP of a TAESD's decoder on one tile."""
    latent = torch.empty(1, 4, height, width, device="meta")
    return _count(lambda: _tiny().decode(latent))


@cache
def _tiny():
    from diffusers import AutoencoderTiny

    with torch.device("meta"):
        return AutoencoderTiny()


@cache
def count_step(height: int, width: int, lora: bool = False) -> float:
    """TFLOP of the network; `lora` = with an unmerged rank-256 LoRA."""
    latent = torch.empty(1, 4, height, width, device="meta")
    time, text = torch.empty(1, device="meta"), models.context("meta")
    return _count(lambda: _unet(lora)(latent, time, text))


def plans(cells: int) -> tuple[TilePlan, TilePlan]:
    """The autoencoder's and the network's plan for a square picture."""
    return plan_tiles(cells, cells, VAE_COST), plan_tiles(cells, cells, SD2.tile)


def work_of_plan(cells: int) -> Work:
    """What the pack spends on a square picture."""
    vae, unet = plans(cells)
    shape = vae.rows.tile, vae.columns.tile
    return Work(
        encode=len(vae.boxes) * count_encode(*shape),
        step=len(unet.boxes) * count_step(unet.rows.tile, unet.columns.tile),
        decode=len(vae.boxes) * count_decode(*shape),
    )


def decode_of_tiny(cells: int) -> float:
    """TFLOP of a TAESD that decodes a square picture in the autoencoder's tiles."""
    vae, _ = plans(cells)
    return len(vae.boxes) * count_tiny(vae.rows.tile, vae.columns.tile)


def work_of_limit(cells: int) -> Work:
    """Every cell once, in 512 px tiles without overlap, LoRA merged."""
    return _in_512_px_tiles((cells / reference.TILE) ** 2, lora=False)


def work_of_reference(cells: int) -> Work:
    """The reference plan, LoRA not merged."""
    return _in_512_px_tiles(reference.count_tiles(cells, cells), lora=True)


def constants_against_count() -> list[tuple[str, int, int, float, float]]:
    """(stage, height, width, TFLOP by hypir.priors, TFLOP counted) over the planner's range."""
    rows = []
    for shape in ((64, 64), (96, 96), (128, 128), (144, 144), (64, 128)):
        counted = count_encode(*shape) + count_decode(*shape)
        rows.append(("autoencoder", *shape, VAE_COST.of(*shape), counted))
    for shape in ((64, 64), (96, 96), (128, 128), (64, 128)):
        rows.append(("network", *shape, SD2.tile.of(*shape), count_step(*shape)))
    return rows


def _in_512_px_tiles(count: float, lora: bool) -> Work:
    side = reference.TILE
    return Work(
        count * count_encode(side, side),
        count * count_step(side, side, lora),
        count * count_decode(side, side),
    )


def _count(call) -> float:
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        call()
    return counter.get_total_flops() / TERA
