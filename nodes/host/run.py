"""One run of the step inside the host's sampling: the guider is called tile by tile."""

import logging

import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...hypir.one_step import restore_latent
from ...hypir.tiling import CELL_PX, Tile, TilePlan
from .architectures import host_sigma
from .conditions import check_conditions, conditions_of_tiles, most_tiles, within_latent
from .coverage import check_covered, log_idle
from .door import KEY
from .foreign import (
    FreshState,
    NetworkWatch,
    same_random_numbers,
    see_the_batch,
    told_in_a_sentence,
)
from .memory import (
    check_cancelled,
    describe_plan,
    planned_batch,
    run_on_ladder,
    show_progress_text,
)
from .model import step_bytes
from .outputs import NETWORK_REMEDY, check_output
from .previews import show
from .prompts import fill_defaults
from .schedule import check_formula, input_factor, prior_timestep

log = logging.getLogger(__name__)


class Run:
    """One run of the step: the guider is called tile by tile."""

    def __init__(self, sampler, guider, extra_args: dict, callback, z: Tensor, denoise_mask):
        """The arguments of a SAMPLER's sample(); `sampler` is the OneStepSampler."""
        self.sampler, self.guider, self.callback = sampler, guider, callback
        self.z, self.mask = z, denoise_mask
        self.patcher = guider.model_patcher
        self.sigma = torch.full(
            (1,), host_sigma(sampler.step), device=z.device, dtype=torch.float32
        )
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        comfy.patcher_extension.add_wrapper_with_key(
            WrappersMP.CALC_COND_BATCH, KEY, self._check_covered, options, is_model_options=True
        )
        self.alone = see_the_batch(options)
        self.network = NetworkWatch(options)
        self.foreign = FreshState(guider, options)
        self.extra_args = {**extra_args, "model_options": options}
        self.needed = step_bytes(self.patcher)
        self.tiles: list[Tile] = []
        self.computed = True
        """Whether the host had anything to compute in the last call."""

    def result(self, noise: Tensor) -> Tensor:
        """x0 of the whole latent, with smaller tiles if memory runs out."""
        guider, z, sampler = self.guider, self.z, self.sampler
        check_formula(guider.inner_model.model_sampling, sampler.step, self.sigma)
        self._fill_defaults(noise)
        cells = tuple(z.shape[-2:])
        self.conditions = within_latent(guider.conds, cells)
        log_idle(guider.conds, float(self.sigma))
        self._log_mask()
        try:
            with prior_timestep(guider, self.sigma, sampler.timestep, sampler.prior.prediction):
                return run_on_ladder(
                    "step",
                    lambda limit: sampler.plan(*cells, limit),
                    self._batch_for,
                    self._run,
                    self.needed,
                    self.patcher.load_device,
                )
        finally:
            guider.conds = self.conditions
            self.foreign.hand_back()

    def _log_mask(self) -> None:
        if self.mask is None:
            return
        if not bool(self.mask.any()):
            log.warning("HYPIR step: the latent's mask is empty, so nothing is restored")
        if self.extra_args["model_options"].get("denoise_mask_function") is not None:
            log.warning(
                "HYPIR step: Differential Diffusion has no effect, because there is one step; the "
                "mask blends the result with the latent"
            )

    def _fill_defaults(self, noise: Tensor) -> None:
        """For a guider that was not prepared: resolve its conditions again where necessary."""
        guider = self.guider
        if not fill_defaults(guider.conds, self.sampler.settings):
            return
        conds = {name: [dict(c) for c in group] for name, group in guider.original_conds.items()}
        fill_defaults(conds, self.sampler.settings)
        comfy.samplers.preprocess_conds_hooks(conds)
        comfy.samplers.filter_registered_hooks_on_conds(conds, guider.model_options)
        guider.conds = comfy.samplers.process_conds(
            guider.inner_model,
            noise,
            conds,
            self.z.device,
            self.z,
            self.mask,
            self.extra_args["seed"],
            latent_shapes=[self.z.shape],
        )

    def _batch_for(self, plan: TilePlan) -> int:
        most = 1 if self.alone else most_tiles(plan, self.conditions, len(self.z))
        asked = min(self.sampler.tile_batch, most)
        return asked or planned_batch(plan, most, self.needed, self.patcher)

    def _run(self, plan: TilePlan, batch: int) -> Tensor:
        height, width = self.z.shape[-2:]
        describe_plan("step", plan, height * CELL_PX, width * CELL_PX)
        tiled = len(plan.boxes) > 1
        check_conditions(self.conditions, tiled, (height, width), len(self.z))
        mix = most_tiles(plan, self.conditions, 2) > len(plan.boxes)
        show_progress_text("restore", 0, len(self.z) * len(plan.boxes))

        def predict(x_t: Tensor, tiles: list[Tile]) -> Tensor:
            check_cancelled()
            self.tiles = tiles
            self.guider.conds = conditions_of_tiles(self.conditions, tiles, tiled, mix)
            return self._denoise(x_t)

        def report(done: int, total: int, so_far: Tensor) -> None:
            if self.callback is not None:
                shown = masked(so_far, self.z, self.mask)
                show(self.callback, done - 1, shown, self.z, total)
            show_progress_text("restore", done, total)

        return restore_latent(self.z, predict, self.sampler.step, plan, batch, mix, report)

    def _denoise(self, x_t: Tensor) -> Tensor:
        """x0 at the model level. The host multiplies its input by a factor before the network; this
        is undone here, so that the network's input is x_t."""
        factor = input_factor(self.guider.inner_model.model_sampling, self.sigma)
        self.foreign.rewind()
        sigma = self.sigma.expand(x_t.shape[0])
        with same_random_numbers(x_t.device), self.network.one_call(lambda: self.computed):
            with told_in_a_sentence():
                x0 = self.guider(x_t / factor, sigma, **self.extra_args)
        return check_output(
            x0,
            self.tiles,
            "step",
            "the network",
            self.patcher.model.get_dtype_inference(),
            NETWORK_REMEDY,
        )

    def _check_covered(self, executor, model, conds, x_in, timestep, model_options):
        wanted = None
        if self.mask is not None:
            wanted = torch.stack([t.crop(self.mask)[0] for t in self.tiles]).amax((0, 1)) > 0
        self.computed = check_covered(conds, x_in, float(self.sigma), wanted)
        return executor(model, conds, x_in, timestep, model_options)


def masked(x0: Tensor, z: Tensor, mask: Tensor | None) -> Tensor:
    """x0 where the mask is 1, the unchanged latent where it is 0."""
    return x0 if mask is None else x0 * mask + z * (1 - mask)
