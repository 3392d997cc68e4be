"""The tiny recipe's second stage: a diffusion prior by plain flow matching.

    x_s = (1 - s) z + s eps,   L = || v(x_s, s) - (eps - z) ||^2        [Liu et al. 2022]

s is drawn logit-normal, as for SD3 (Esser et al. 2024). There is no text: the network gets the zero
token and the zero vector, as from the nodes without a CLIP.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypir.noise import standard_normal
from hypir.predictions import FLOW
from hypir.weight_files import write_tensors

from .architectures import ARCHITECTURES, Condition
from .data import derive_seed
from .feed import Batch
from .files import PRIOR_FILE
from .generator import call_network, decode, frozen_encoder
from .loop import Ema, trainable
from .models import DTYPES, Base, load_base
from .recipe import Recipe
from .recompute import recompute
from .schedule import make_optimizer
from .sharding import prepare, whole
from .text_cache import make_text
from .transfer import send
from .update import Place, Updates, synced


class Flow(nn.Module):
    """The network as a velocity field."""

    def __init__(self, base: Base):
        super().__init__()
        self.network, self.prior = base.network, base.prior

    def forward(self, x_s: Tensor, s: Tensor, tokens: Tensor, pooled: Tensor | None) -> Tensor:
        """V (B, C, h, w) at x_s and s (B,)."""
        condition = Condition(tokens, pooled)
        return call_network(
            self.prior, self.network, x_s, 1000 * s, condition, self.prior.conditions
        )


class DiffusionStage(Updates):
    """See loop.Stage."""

    name = "diffusion"
    degrades = False

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self.accelerator = recipe, accelerator
        self.clip = recipe.optimizer.clip
        base = base or load_base(recipe)
        if base.prior.betas is not None:  # flow matching needs every level between 0 and 1
            raise ValueError(
                f"the diffusion stage trains flow models only, not {base.prior.title}; remove it "
                f"from --stages"
            )
        device = accelerator.device
        self._encoder = frozen_encoder(base.vae, base.prior).to(device)
        self._vae, self._text, self.prior = (
            base.vae.to(device),
            make_text(base.text, recipe, accelerator),
            base.prior,
        )
        self.flow = Flow(base).requires_grad_(True).train()
        recompute(recipe.engine, base.network)
        self.modules = {"flow": self.flow}
        optimizer = make_optimizer(recipe.optimizer, trainable(self.flow).values())
        self._f, optimizer = prepare(accelerator, self.flow, optimizer)
        self.optimizers = {"flow": optimizer}
        self.ema = Ema(self.flow, recipe.schedule.ema)

    def backward(self, batch: Batch, place: Place) -> dict[str, Tensor]:
        """The network's gradients."""
        with synced(self.accelerator, self._f, place.last), self.accelerator.autocast():
            loss = self._loss(batch, place.step)
            self.accelerator.backward(loss / place.count)
        return {"loss": loss}

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """The degraded image after one step of this network, which was not trained to restore."""
        prior, told = self.prior, self._recipe.lora.timestep
        level = prior.level(told if told >= 0 else prior.timestep)
        with self.accelerator.autocast(), self.ema.applied():
            condition = self._text.encode(batch.captions, batch.target.device)
            scale = FLOW.input_scale(level)
            x_t = scale * self._encoder(batch.degraded).float()
            s = torch.full((len(x_t),), level.sigma, device=x_t.device)
            velocity = self.flow(x_t, s, condition.tokens, condition.pooled).float()
            return decode(self._vae, prior, FLOW.x0(x_t, velocity, level)).float()

    def export(self, folder: Path, precision: str = "") -> list[Path]:
        """The averaged network under diffusers' names, which the host recognises."""
        path, dtype = folder / PRIOR_FILE, DTYPES[precision or self._recipe.saving.export]
        with self.ema.applied():
            state = whole(self.flow.network.state_dict())
            # Copied in this block: afterwards the same memory contains the last step's weights
            # again.
            if self.accelerator.is_main_process:
                state = {k: v.to("cpu", dtype) for k, v in state.items()}
                write_tensors(path, state, {"hypir.prior": self.prior.name})
        return [path]

    def _loss(self, batch: Batch, step: int) -> Tensor:
        with torch.no_grad():
            z = self._encoder(batch.target).float()
            condition = self._text.encode(batch.captions, z.device)
        seeds = [derive_seed(self._recipe.seed, f"flow of step {step}", n) for n in batch.numbers]
        eps = send(torch.stack([standard_normal(z.shape[1:], seed) for seed in seeds]), z)
        draws = [np.random.default_rng(seed) for seed in seeds]
        s = send([1 / (1 + math.exp(-d.standard_normal())) for d in draws], z)
        wide = s[:, None, None, None]
        x_s = (1 - wide) * z + wide * eps
        with self._positions(draws[0]):
            v = self._f(x_s, s, condition.tokens, condition.pooled)
        return F.mse_loss(v.float(), eps - z)

    def _positions(self, draw: np.random.Generator) -> AbstractContextManager:
        if not self._recipe.conditions.random_positions:
            return nullcontext()
        return ARCHITECTURES[self.prior.name].shifted_positions(self.flow.network, draw)
