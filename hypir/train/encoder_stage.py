"""Degradation-removal encoder: the encoder alone learns to read bad pictures as good ones.

    L = || D(E(degraded)) - D(E0(clean)) ||^2        [HYPIR, arXiv 2507.20590, with E for both]

D is the fixed decoder, E the trained encoder, E0 the encoder as it was. As printed the formula has
E on both sides (`encoder_target` both), which lets the two sides move together. Latents may be
compared instead: without the decoder a step is less than half the work.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from hypir.encoder import save_encoder

from .feed import Batch
from .files import ENCODER_FILE
from .generator import Encoder, decode, frozen_encoder, is_tiny, latent_weights
from .klt import closed_form, prepare_to_learn
from .loop import Ema, trainable
from .loss_list import Losses, total
from .models import DTYPES, Base, load_base, load_vae_part
from .recipe import Recipe
from .recompute import recompute
from .schedule import make_optimizer
from .sharding import prepare, whole
from .update import Place, Updates, synced


def trainable_encoder(base: Base, recipe: Recipe) -> Encoder:
    """The encoder that a run begins with, out of the base model or the recipe's file."""
    if recipe.files.encoder_file:
        load_vae_part(base.vae, Path(recipe.files.encoder_file))
    elif is_tiny(base.vae) and closed_form(base.vae) is not None:
        prepare_to_learn(base.vae.encoder)
    return Encoder(base.vae, base.prior).learn()


class EncoderStage(Updates):
    """See loop.Stage."""

    name = "encoder"
    degrades = True

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self.accelerator = recipe, accelerator
        self.clip = recipe.optimizer.clip
        base = base or load_base(recipe)
        self.prior, device = base.prior, accelerator.device
        self._vae = base.vae.to(device)
        recompute(recipe.engine, vae=self._vae)
        self._frozen = frozen_encoder(base.vae, base.prior).to(device)
        self._weights = latent_weights(self._frozen, base.prior.latent_channels).to(device)
        self._losses = Losses("encoder", recipe.encoder_losses, recipe.loss_options, device)
        self.encoder = trainable_encoder(base, recipe)
        self.modules = {"encoder": self.encoder}
        optimizer = make_optimizer(recipe.optimizer, trainable(self.encoder).values())
        self._e, optimizer = prepare(accelerator, self.encoder, optimizer)
        self.optimizers = {"encoder": optimizer}
        self.ema = Ema(self.encoder, recipe.schedule.ema)

    def backward(self, batch: Batch, place: Place) -> dict[str, Tensor]:
        """The encoder's gradients."""
        with synced(self.accelerator, self._e, place.last), self.accelerator.autocast():
            terms = self.terms(batch)
            loss = total(terms, self._losses)
            self.accelerator.backward(loss / place.count)
        return {**terms, "loss": loss}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of decoded latents in pixels, or of the latents; not weighted."""
        both = self._recipe.encoder_losses.encoder_target == "both"
        z = self._e(torch.cat([batch.degraded, batch.target]) if both else batch.degraded)
        z, z_clean = z.chunk(2) if both else (z, None)
        with torch.no_grad():
            clean = self._frozen(batch.target)
        shown = {"latent": z.float(), "clean": clean.float(), "channels": self._weights}
        if self._losses.need("pixels"):
            with nullcontext() if both else torch.no_grad():
                target = decode(self._vae, self.prior, z_clean if both else clean)
            pixels = decode(self._vae, self.prior, z)
            shown |= {"pixels": pixels.float(), "target": target.float()}
        return self._losses.terms(**shown)

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """The degraded picture, encoded and decoded."""
        with self.accelerator.autocast(), self.ema.applied():
            return decode(self._vae, self.prior, self.encoder(batch.degraded)).float()

    def export(self, folder: Path, precision: str = "") -> list[Path]:
        """The averaged encoder, with the fingerprint of its decoder."""
        path = folder / ENCODER_FILE.format(name=self._recipe.name)
        dtype = DTYPES[precision or self._recipe.saving.export]
        with self.ema.applied():
            state = whole(self.encoder.state_for(self._vae))
            encoder = ("encoder.", "quant_conv.")
            state = {k: v.to(dtype) if k.startswith(encoder) else v for k, v in state.items()}
            # Written in here: afterwards the same memory holds the last step's weights again.
            if self.accelerator.is_main_process:
                save_encoder({k: v.cpu() for k, v in state.items()}, path)
        return [path]
