"""The one step on the host's MODEL: as a SAMPLER, and run at once."""

import logging
from math import isclose

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ...hypir.image import resize
from ...hypir.noise import latent_mask
from ...hypir.one_step import OneStep, restore_latent
from ...hypir.priors import Prior
from ...hypir.tiling import CELL_PX, Tile, TileCost, TilePlan, plan_tiles
from .architectures import host_sigma
from .conditions import (
    are_spatial,
    check_conditions,
    conditions_of_tiles,
    differ_by_item,
    have_places,
)
from .memory import (
    check_cancelled,
    describe_plan,
    planned_batch,
    run_on_ladder,
    show_progress_text,
)
from .model import ATTACHMENT, Settings, check_latent, detect_prior, settings_of, tile_cost

log = logging.getLogger(__name__)

PREVIEW_CELLS = 64
"""Longest side of what the host's preview is given by Restore: some previews decode all of it."""


def make_step(settings: Settings, timestep: int = -1, coefficient_timestep: int = -1) -> OneStep:
    """The one step of a model: its weights' timesteps unless others are asked for."""
    t = settings.timestep if timestep < 0 else timestep
    if coefficient_timestep >= 0:
        c = coefficient_timestep
    else:
        c = settings.coefficient_timestep if timestep < 0 else t
    return settings.prior.step(t, c, _input_scale(settings, t))


def _input_scale(settings: Settings, timestep: int) -> float:
    """k at a timestep: follows the level where the weights' k is the formula's, else stays."""
    prior, k = settings.prior, settings.input_scale
    follows = isclose(k, prior.input_scale_at(settings.timestep), rel_tol=1e-3)
    return prior.input_scale_at(timestep) if follows and timestep in prior.timesteps else k


class OneStepSampler(comfy.samplers.Sampler):
    """HYPIR's step as the host's SAMPLER: no noise is added, the latent itself is x_t."""

    def __init__(
        self,
        settings: Settings,
        step: OneStep,
        cost: TileCost,
        tile: int,
        overlap: int,
        tile_batch: int,
    ):
        self.settings = settings
        self.prior = settings.prior
        self.step = step
        self.cost = cost
        self.tile = tile
        self.overlap = overlap
        self.tile_batch = tile_batch

    def plan(self, height: int, width: int, limit: int | None = None) -> TilePlan:
        """Tiles of the network over a latent of this size."""
        return plan_tiles(height, width, self.cost, self.tile, self.overlap, limit)

    def sample(
        self, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask=None, _=False
    ) -> Tensor:
        """The host calls this with the latent scaled, on the device, in float32.

        Args:
            guider: calls the network; any of the host's guiders.
            sigmas: HYPIR Sampler's own, (2,).
            noise: ignored.
            denoise_mask: 1 where the result is wanted, 0 where the latent is kept.
        """
        z = latent_image
        _check_latent(z, self.prior)
        _check_sigmas(sigmas, host_sigma(self.step))
        patcher = guider.model_patcher
        _check_guider(patcher, self.settings)
        conditions = guider.conds
        shape = z.shape[-2:]

        def needed(plan: TilePlan, batch: int = 1) -> float:
            tile = [batch, z.shape[1], plan.rows.tile, plan.columns.tile]
            return patcher.model.memory_required(tile)

        def is_spatial(plan: TilePlan) -> bool:
            return len(plan.boxes) > 1 and are_spatial(conditions)

        mixable = not differ_by_item(conditions)

        def batch_for(plan: TilePlan) -> int:
            if is_spatial(plan):
                return 1
            count = len(plan.boxes) * (len(z) if mixable else 1)
            asked = min(self.tile_batch, count)
            return asked or planned_batch(plan, count, needed, patcher)

        def run(plan: TilePlan, batch: int) -> Tensor:
            describe_plan("step", plan, shape[0] * CELL_PX, shape[1] * CELL_PX)
            tiled = len(plan.boxes) > 1
            check_conditions(conditions, tiled, tuple(shape))
            mix = mixable and not is_spatial(plan)
            show_progress_text("restore", 0, len(z) * len(plan.boxes))

            def predict(x_t: Tensor, tiles: list[Tile]) -> Tensor:
                check_cancelled()
                guider.conds = conditions_of_tiles(conditions, tiles, tiled, mix)
                return self._denoise(guider, x_t, extra_args)

            def report(done: int, total: int, so_far: Tensor) -> None:
                if callback is not None:
                    _show(callback, done - 1, so_far, z, denoise_mask, total)
                show_progress_text("restore", done, total)

            try:
                return restore_latent(z, predict, self.step, plan, batch, mix, report)
            finally:
                guider.conds = conditions

        x0 = run_on_ladder(
            "step",
            lambda limit: self.plan(*shape, limit),
            batch_for,
            run,
            needed,
            patcher.load_device,
        )
        return _masked(x0, z, denoise_mask)

    def _denoise(self, guider, x_t: Tensor, extra_args: dict) -> Tensor:
        """x0 at the model level. The host scales what it is given before the network sees it, by
        a factor linear in the tensor: undone here, so that the network sees x_t itself."""
        sigma = torch.full((x_t.shape[0],), host_sigma(self.step), device=x_t.device)
        sampling = guider.inner_model.model_sampling
        factor = sampling.calculate_input(sigma[:1], torch.ones(1, 1, 1, 1, device=x_t.device))
        return guider(x_t / factor, sigma, **extra_args)


def make_sampler(
    model,
    timestep: int = -1,
    coefficient_timestep: int = -1,
    tile: int = 0,
    overlap: int = -1,
    tile_batch: int = 0,
) -> tuple[OneStepSampler, Tensor]:
    """SAMPLER and SIGMAS of the one step on this MODEL."""
    settings = settings_of(model)
    step = make_step(settings, timestep, coefficient_timestep)
    cost = tile_cost(model)
    plan_tiles(1, 1, cost, tile, overlap)  # says now what is wrong with the tiles
    sampler = OneStepSampler(settings, step, cost, tile, overlap, tile_batch)
    return sampler, torch.tensor([host_sigma(step), 0.0])


def restore(
    model,
    positive,
    latent: Tensor,
    size: tuple[int, int] | None = None,
    noise_mask: Tensor | None = None,
    **options: int,
) -> Tensor:
    """The one step, run at once.

    Args:
        model: the host's MODEL.
        positive: CONDITIONING.
        latent: (B, C, h, w), not scaled, as HYPIR Encode gives it.
        size: true size of the picture in pixels, which lies top left in the latent.
        noise_mask: (B or 1, H, W) in [0, 1], 1 = restored, 0 = the latent is kept.
        options: those of make_sampler.

    Returns:
        Clean latent, same shape, not scaled.
    """
    sampler, sigmas = make_sampler(model, **options)
    defaults = settings_of(model).conditions
    positive = [[tokens, {**defaults, **extra}] for tokens, extra in positive]
    _check_latent(latent, sampler.prior)
    plan = sampler.plan(*latent.shape[-2:])
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive})
    # The host asks for memory by the shape of the noise, which the sampler ignores: one call's
    # tiles instead of the whole latent. Masks and areas are fitted to it and need it whole.
    calls = latent.shape[0] * len(plan.boxes)
    extras = {"positive": [c for _, c in positive]}
    alone = len(plan.boxes) > 1 and are_spatial(extras)
    tiles = 1 if alone else min(sampler.tile_batch or 1, calls)
    shape = (tiles, latent.shape[1], plan.rows.tile, plan.columns.tile)
    if have_places(extras):
        shape = (1, *latent.shape[1:])
    result = guider.sample(
        torch.zeros(shape),
        latent,
        sampler,
        sigmas,
        denoise_mask=_latent_noise_mask(noise_mask, latent, size),
        callback=_of_small(latent_preview.prepare_callback(model, calls)),
        disable_pbar=True,
        seed=0,
    )
    return result.to(
        device=comfy.model_management.intermediate_device(),
        dtype=comfy.model_management.intermediate_dtype(),
    )


def _masked(x0: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
    """x0 where the mask is 1, the latent as it came where it is 0."""
    return x0 if mask is None else x0 * mask + z * (1 - mask)


def _of_small(callback):
    """The host's callback, given a small latent: what a preview costs must not grow with it."""

    def show(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        small, longest = x0[:1], max(x0.shape[-2:])
        if longest > PREVIEW_CELLS:
            size = [max(1, round(s * PREVIEW_CELLS / longest)) for s in small.shape[-2:]]
            small = torch.nn.functional.interpolate(small, size, mode="area")
        callback(step, small, x, total)

    return show


def _show(callback, step: int, x0: Tensor, z: Tensor, mask: Tensor | None, total: int) -> None:
    """A preview that runs out of memory is left out: it is no reason to take smaller tiles."""
    try:
        callback(step, _masked(x0, z, mask), z, total)
    except Exception as error:
        if not isinstance(error, MemoryError):
            comfy.model_management.raise_non_oom(error)
        log.warning("HYPIR step: out of memory for the host's preview; it goes on without")


def _latent_noise_mask(mask: Tensor | None, latent: Tensor, size: tuple[int, int] | None):
    """The mask per latent cell, aligned to the true picture rather than to its padding."""
    if mask is None:
        return None
    mask = mask.reshape(-1, *mask.shape[-2:])
    cells = tuple(latent.shape[-2:])
    height, width = size or (cells[0] * CELL_PX, cells[1] * CELL_PX)
    mask = resize(mask[..., None].float(), height, width)[..., 0]
    return latent_mask(mask, cells, (height, width))


def _check_latent(latent: Tensor, prior: Prior) -> None:
    check_latent(latent, prior)
    if torch.count_nonzero(latent) == 0:
        raise ValueError(
            "the latent is empty (all zeros), so there is nothing to restore; connect HYPIR Encode"
        )


def _check_guider(patcher, settings: Settings) -> None:
    """The guider calls its own model, which must be the one that the sampler was made from."""
    prior, carried = detect_prior(patcher), patcher.get_attachment(ATTACHMENT)
    name = carried.name if carried is not None else ""
    if (prior.name, name) != (settings.prior.name, settings.name):
        raise ValueError(
            f"HYPIR Sampler was made from {settings.prior.title} with "
            f"{settings.name or 'no HYPIR weights'}, but the guider's model is {prior.title} with "
            f"{name or 'no HYPIR weights'}; connect the same model to both"
        )


def _check_sigmas(sigmas: Tensor, expected: float) -> None:
    if len(sigmas) != 2 or abs(float(sigmas[0]) - expected) > 1e-4:
        raise ValueError(
            f"HYPIR Sampler's SAMPLER runs on its own SIGMAS ({expected:.4f}, 0), got "
            f"{[round(float(s), 4) for s in sigmas[:4]]}; connect both outputs of HYPIR Sampler"
        )
