"""The host's VAE in tiles: image to latent, latent to image, and a replaced encoder."""

import copy
from collections.abc import Callable, Sequence
from math import ceil

import comfy.model_management
import torch
from torch import Tensor

from ...hypir.image import check_latent, color_channels, crop_padded, latent_size
from ...hypir.noise import standard_normal
from ...hypir.tiling import CELL_PX, VAE_COST, Tile, TilePlan, plan_tiles, run_tiles
from .memory import Progress, check_cancelled, describe_plan, planned_batch, run_on_ladder
from .outputs import VAE_REMEDY, check_output


def encode(
    vae,
    image: Tensor,
    tile: int = 0,
    overlap: int = -1,
    sample_seeds: Sequence[int] | None = None,
) -> Tensor:
    """Latent of an image of any size, padded right and bottom to a multiple of 16 px.

    Args:
        vae: the host's VAE.
        image: (B, H, W, 1, 3 or 4) in [0, 1]; alpha is ignored.
        tile, overlap: in cells, 0 and -1 = planned.
        sample_seeds: one seed per item to sample the posterior (moments blended over the tiles,
            sampled once); None uses its mean.

    Returns:
        (B, C, h, w), not scaled, like the output of the host's VAE Encode.
    """
    check_image_vae(vae)
    image = color_channels(image)
    height, width = latent_size(*image.shape[1:3])
    work = _without_own_tiling(vae)
    channels = vae.latent_channels
    if sample_seeds is not None:
        work = _with_moments(work)
        channels *= 2

    needed = encode_bytes(vae)

    def batch_for(plan: TilePlan) -> int:
        return planned_batch(plan, image.shape[0] * len(plan.boxes), needed, vae.patcher)

    def run(plan: TilePlan, batch: int) -> Tensor:
        describe_plan("encode", plan, *image.shape[1:3])
        progress = Progress("encode", image.shape[0] * len(plan.boxes))
        out = torch.zeros((image.shape[0], channels, height, width), device=vae.output_device)

        def process(tiles: list[Tile]) -> Tensor:
            check_cancelled()
            latents = work.encode(torch.cat([_window(image, tile) for tile in tiles]))
            return _checked(latents, tiles, "encode", "the encoder", vae)

        run_tiles(
            plan, process, out, batch=batch, on_batch=lambda n, total, _: progress.update(n, total)
        )
        return out

    planner = _planner(height, width, tile, overlap)
    latent = run_on_ladder("encode", planner, batch_for, run, needed, vae.device)
    if sample_seeds is not None:
        latent = _sample(latent, sample_seeds)
    return latent.to(comfy.model_management.intermediate_dtype())


def decode(
    vae,
    latent: Tensor,
    size: tuple[int, int] | None = None,
    tile: int = 0,
    overlap: int = -1,
) -> Tensor:
    """Image of a latent of any size.

    Args:
        vae: the host's VAE.
        latent: (B, C, h, w), not scaled.
        size: (height, width) of the part to keep, at the top left; None keeps all.
        tile, overlap: in cells, 0 and -1 = planned.

    Returns:
        (B, H, W, 3) float32, not clamped, so that colours can be corrected first.
    """
    check_image_vae(vae)
    remedy = "use the VAE of the model that made the latent"
    check_latent(latent, vae.latent_channels, "this VAE decodes", remedy)
    height, width = latent.shape[-2:]
    kept = size or (height * CELL_PX, width * CELL_PX)
    work = _without_clamp(_without_own_tiling(vae))

    needed = decode_bytes(vae)

    def batch_for(plan: TilePlan) -> int:
        return planned_batch(plan, latent.shape[0] * len(plan.boxes), needed, vae.patcher)

    def run(plan: TilePlan, batch: int) -> Tensor:
        describe_plan("decode", plan, *kept)
        progress = Progress("decode", latent.shape[0] * len(plan.boxes))
        image = torch.zeros((latent.shape[0], *kept, 3), device=vae.output_device)

        def process(tiles: list[Tile]) -> Tensor:
            check_cancelled()
            crops = torch.cat([t.crop(latent) for t in tiles])
            pixels = work.decode(crops).movedim(-1, 1)  # BHWC -> BCHW
            return _checked(pixels, tiles, "decode", "the decoder", vae)

        def show(done: int, total: int, pixels: Tensor) -> None:
            progress.update(done, total, pixels if len(plan.boxes) > 1 else None)

        run_tiles(plan, process, image.movedim(-1, 1), scale=CELL_PX, batch=batch, on_batch=show)
        return image

    planner = _planner(height, width, tile, overlap)
    return run_on_ladder("decode", planner, batch_for, run, needed, vae.device)


def encode_bytes(vae) -> Callable[..., float]:
    """(tiles, tiles per call) -> bytes on the device, the host's estimate."""

    def needed(plan: TilePlan, batch: int = 1) -> float:
        h, w = plan.rows.tile * CELL_PX, plan.columns.tile * CELL_PX
        return vae.memory_used_encode((batch, 3, h, w), vae.vae_dtype)

    return needed


def decode_bytes(vae) -> Callable[..., float]:
    """The same for the decoder."""

    def needed(plan: TilePlan, batch: int = 1) -> float:
        shape = (batch, vae.latent_channels, plan.rows.tile, plan.columns.tile)
        return vae.memory_used_decode(shape, vae.vae_dtype)

    return needed


def _checked(result: Tensor, tiles: list[Tile], stage: str, maker: str, vae) -> Tensor:
    return check_output(result, tiles, stage, maker, vae.vae_dtype, VAE_REMEDY)


def _planner(height: int, width: int, tile: int, overlap: int):
    return lambda limit: plan_tiles(height, width, VAE_COST, tile, overlap, limit)


def _window(image: Tensor, tile: Tile) -> Tensor:
    """The tile's pixels (1, h, w, 3), extended by reflection beyond the image."""
    return crop_padded(
        image[tile.item : tile.item + 1],
        tile.y * CELL_PX,
        tile.x * CELL_PX,
        tile.height * CELL_PX,
        tile.width * CELL_PX,
    )


def _sample(moments: Tensor, seeds: Sequence[int]) -> Tensor:
    """mean + std * n, std = exp(logvar / 2), with logvar clamped as in the autoencoder."""
    mean, logvar = moments.chunk(2, dim=1)
    noise = torch.stack([standard_normal(mean.shape[1:], seed) for seed in seeds])
    return mean + (0.5 * logvar.clamp(-30, 20)).exp() * noise.to(mean.device)


class _Moments(torch.nn.Module):
    """Replaces the autoencoder's sampling of the posterior, and returns the moments."""

    def forward(self, moments: Tensor) -> tuple[Tensor, None]:
        return moments, None


def _with_moments(vae):
    if not hasattr(vae.first_stage_model, "regularization"):
        raise ValueError(
            "posterior 'sample' needs a VAE with a posterior, but this one "
            f"({type(vae.first_stage_model).__name__}) has none; choose 'mean'"
        )
    vae = copy.copy(vae)
    vae.patcher = vae.patcher.clone()
    vae.patcher.add_object_patch("regularization", _Moments())
    return vae


def _without_own_tiling(vae):
    """A view of the VAE that raises when memory runs out, instead of using the host's tiling."""
    vae = copy.copy(vae)
    for name in ("encode_tiled_", "encode_tiled_3d", "_encode_tiled_owned"):
        setattr(vae, name, _out_of_memory)
    for name in ("decode_tiled_", "decode_tiled_3d", "_decode_tiled_owned"):
        setattr(vae, name, _out_of_memory)
    return vae


def _out_of_memory(*args, **kwargs):
    raise MemoryError("the tile does not fit the device")


def _without_clamp(vae):
    """A view of the VAE that keeps decoded values outside [0, 1].

    Only if its last step is the usual clamped (x + 1) / 2; others are not changed.
    """
    probe = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    clamped = vae.process_output(probe.clone())
    if torch.equal(clamped, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0])):
        vae = copy.copy(vae)
        vae.process_output = lambda pixels: pixels.add_(1.0).div_(2.0)
    return vae


def check_image_vae(vae) -> None:
    vae.throw_exception_if_invalid()
    ratio = vae.spacial_compression_encode()
    if vae.latent_dim != 2 or ceil(ratio) != CELL_PX or vae.output_channels != 3:
        raise ValueError(
            f"HYPIR needs a VAE for images with {CELL_PX} px per latent cell, but this one has "
            f"{vae.latent_dim} latent dimensions and {ratio} px; use the VAE of the checkpoint"
        )


def compute_device(vae) -> torch.device:
    """The device of the host's VAE, where pixel operations are fast."""
    return vae.device
