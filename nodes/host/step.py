"""The restoration step on the host's MODEL: as a SAMPLER, or run directly."""

from collections.abc import Sequence
from math import isclose

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from torch import Tensor

from ...hypir.image import resize
from ...hypir.noise import latent_mask
from ...hypir.one_step import OneStep
from ...hypir.priors import Prior
from ...hypir.tiling import CELL_PX, TileCost, TilePlan, plan_tiles
from .architectures import host_sigma
from .carried import carried, settings_of
from .conditions import Conditions, have_places, most_tiles
from .door import Prepared, with_door
from .foreign import check_negative
from .model import check_latent, detect_prior, tile_cost
from .previews import of_small
from .prompts import check_prompts, fill_defaults
from .run import Run, masked
from .settings import Settings


def make_step(settings: Settings, timestep: int = -1, coefficient_timestep: int = -1) -> OneStep:
    """The step of a model: at the timesteps of its weights unless others are requested."""
    t = settings.timestep if timestep < 0 else timestep
    if coefficient_timestep >= 0:
        c = coefficient_timestep
    else:
        c = settings.coefficient_timestep if timestep < 0 else t
    return settings.prior.step(t, c, _input_scale(settings, t))


def _input_scale(settings: Settings, timestep: int) -> float:
    """k at a timestep: follows the formula if the weights' k does, otherwise stays constant."""
    prior, k = settings.prior, settings.input_scale
    follows = isclose(k, prior.input_scale_at(settings.timestep), rel_tol=1e-3)
    return prior.input_scale_at(timestep) if follows and timestep in prior.timesteps else k


class OneStepSampler(Prepared):
    """HYPIR's step as the host's SAMPLER: it adds no noise; the latent itself is x_t."""

    def __init__(
        self,
        settings: Settings,
        step: OneStep,
        timestep: int,
        cost: TileCost,
        tile: int,
        overlap: int,
        tile_batch: int,
    ):
        self.settings = settings
        self.prior = settings.prior
        self.step = step
        self.timestep = timestep
        self.cost = cost
        self.tile = tile
        self.overlap = overlap
        self.tile_batch = tile_batch

    def plan(self, height: int, width: int, limit: int | None = None) -> TilePlan:
        """The network's tiles for a latent of this size."""
        return plan_tiles(height, width, self.cost, self.tile, self.overlap, limit)

    def prepare(self, guider, latent: Tensor) -> Tensor:
        """Check the model, latent and conditions of a guider, and fill in missing conditions.

        Args:
            guider: any guider of the host; its `conds` are not resolved yet.
            latent: (B, C, h, w), not scaled.

        Returns:
            Zeros of the shape for which the host requests memory: the tiles of a call instead of
                the
            whole latent. With masks or areas it is the whole latent, because they are fitted to it.
        """
        _check_latent(latent, self.prior)
        self._check_guider(guider)
        fill_defaults(guider.conds, self.settings)  # here too, so that they are resolved once
        shape = (1, *latent.shape[1:])
        if not have_places(guider.conds):
            plan = self.plan(*latent.shape[-2:])
            tiles = min(self.tile_batch or 1, most_tiles(plan, guider.conds, latent.shape[0]))
            shape = (tiles, latent.shape[1], plan.rows.tile, plan.columns.tile)
        return torch.zeros(shape)

    def sample(
        self, guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask=None, _=False
    ) -> Tensor:
        """Called by the host, with the scaled latent on the device in float32.

        Args:
            guider: any guider of the host; it calls the network.
            sigmas: those of HYPIR Sampler, (2,).
            noise: ignored.
            denoise_mask: 1 where the latent is restored, 0 where it is kept.
        """
        z = latent_image
        _check_latent(z, self.prior)
        _check_sigmas(sigmas, host_sigma(self.step))
        self._check_guider(guider)
        run = Run(self, guider, extra_args, callback, z, denoise_mask)
        return masked(run.result(noise), z, denoise_mask)

    def _check_guider(self, guider) -> None:
        """Check that the guider's model is the one that the sampler was made from."""
        patcher, settings = guider.model_patcher, self.settings
        hooks = _hooks_of(guider.conds)
        prior, found = detect_prior(patcher), carried(patcher, hooks)
        name = found.name if found is not None else ""
        if hooks and found is not None and not settings.name:
            self._check_hooked(found)
        elif (prior.name, name) != (settings.prior.name, settings.name):
            raise ValueError(
                f"HYPIR Sampler was made from {settings.prior.title} with "
                f"{settings.name or 'no HYPIR weights'}, but the guider's model is {prior.title} "
                f"with {name or 'no HYPIR weights'}; connect the same model to both"
            )
        check_prompts(guider.conds, patcher, settings)
        check_negative(guider)

    def _check_hooked(self, found: Settings) -> None:
        """Check weights that a hook of the conditions puts on a base model."""
        if found.timestep != self.timestep:
            raise ValueError(
                f"a hook puts {found.name} on the model, which was trained at timestep "
                f"{found.timestep}, but HYPIR Sampler was made for {self.timestep}; set its "
                f"timestep, or use Load HYPIR LoRA"
            )


def make_sampler(
    model,
    timestep: int = -1,
    coefficient_timestep: int = -1,
    tile: int = 0,
    overlap: int = -1,
    tile_batch: int = 0,
    hooks: Sequence = (),
) -> tuple[OneStepSampler, Tensor]:
    """SAMPLER and SIGMAS of the step on this MODEL (with these hooks of its conditions)."""
    settings = settings_of(model, hooks)
    step = make_step(settings, timestep, coefficient_timestep)
    cost = tile_cost(model)
    plan_tiles(1, 1, cost, tile, overlap)  # raises now if the tiles are wrong
    if tile_batch < 0:
        raise ValueError(f"tile_batch must be at least 0 (0 = planned), got {tile_batch}")
    t = settings.timestep if timestep < 0 else timestep
    sampler = OneStepSampler(settings, step, t, cost, tile, overlap, tile_batch)
    return sampler, torch.tensor([host_sigma(step), 0.0])


def restore(
    model,
    positive,
    latent: Tensor,
    size: tuple[int, int] | None = None,
    noise_mask: Tensor | None = None,
    preview: bool = True,
    **options: int,
) -> Tensor:
    """Run the step directly.

    Args:
        model: the host's MODEL.
        positive: CONDITIONING.
        latent: (B, C, h, w), not scaled, from HYPIR Encode.
        size: true size in pixels of the image at the top left of the latent.
        noise_mask: (B or 1, H, W) in [0, 1]; 1 = restore, 0 = keep the latent.
        preview: whether the host's progress bar and preview follow the tiles.
        options: those of make_sampler.

    Returns:
        The clean latent, same shape, not scaled.
    """
    hooks = _hooks_of({"positive": [extra for _, extra in positive]})
    sampler, sigmas = make_sampler(model, **options, hooks=hooks)
    _check_latent(latent, sampler.prior)
    guider = comfy.samplers.CFGGuider(model)
    guider.model_options = with_door(model.model_options)
    guider.inner_set_conds({"positive": positive})
    calls = latent.shape[0] * len(sampler.plan(*latent.shape[-2:]).boxes)
    result = guider.sample(
        torch.zeros(1),
        latent,
        sampler,
        sigmas,
        denoise_mask=_latent_noise_mask(noise_mask, latent, size),
        callback=of_small(latent_preview.prepare_callback(model, calls)) if preview else None,
        disable_pbar=True,
        seed=0,
    )
    return result.to(
        device=comfy.model_management.intermediate_device(),
        dtype=comfy.model_management.intermediate_dtype(),
    )


def _hooks_of(conditions: Conditions) -> list:
    """The weight hooks of all conditions: LoRAs that are applied to the model for a run."""
    return [c["hooks"] for group in conditions.values() for c in group if c.get("hooks")]


def _latent_noise_mask(mask: Tensor | None, latent: Tensor, size: tuple[int, int] | None):
    """The mask per latent cell, aligned to the image without its padding."""
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
            "the latent is all zeros, so there is nothing to restore; connect HYPIR Encode"
        )


def _check_sigmas(sigmas: Tensor, expected: float) -> None:
    if len(sigmas) != 2 or abs(float(sigmas[0]) - expected) > 1e-4:
        raise ValueError(
            f"the SAMPLER of HYPIR Sampler needs the SIGMAS of the same node ({expected:.4f}, 0), "
            f"got {[round(float(s), 4) for s in sigmas[:4]]}; connect both outputs of HYPIR Sampler"
        )
