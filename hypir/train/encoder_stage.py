"""Degradation-removal encoder: the encoder alone learns to read bad pictures as good ones.

    L = || D(E(degraded)) - D(E0(clean)) ||^2        [HYPIR, arXiv 2507.20590, with E for both]

D is the fixed decoder, E the trained encoder, E0 the encoder as it was. As printed the formula has
E on both sides (`encoder_target` both), which lets the two sides move together.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hypir.encoder import save_encoder

from .adversarial_stage import ENCODER_FILE
from .data import Batch
from .generator import Encoder, decode, frozen_encoder, is_tiny, latent_weights
from .klt import closed_form, prepare_to_learn
from .loop import Ema, add_up, make_optimizer, settle, synced, update
from .losses import band_loss, latent_loss, pixel_loss
from .models import DTYPES, Base, load_base, load_vae_part
from .recipes import Recipe
from .sharding import prepare, whole


def trainable_encoder(base: Base, recipe: Recipe) -> Encoder:
    """The encoder that a run begins with, out of the base model or the recipe's file."""
    if recipe.encoder_file:
        load_vae_part(base.vae, Path(recipe.encoder_file))
    elif is_tiny(base.vae) and closed_form(base.vae) is not None:
        prepare_to_learn(base.vae.encoder)
    return Encoder(base.vae, base.prior).learn()


class EncoderStage:
    """See loop.Stage."""

    name = "encoder"
    degrades = True

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self._accelerator = recipe, accelerator
        base = base or load_base(recipe)
        self.prior, device = base.prior, accelerator.device
        self._vae = base.vae.to(device)
        if recipe.gradient_checkpointing and not is_tiny(base.vae):
            self._vae.enable_gradient_checkpointing()
        self._frozen = frozen_encoder(base.vae, base.prior).to(device)
        self._weights = latent_weights(self._frozen, base.prior.latent_channels).to(device)
        self.encoder = trainable_encoder(base, recipe)
        self.modules = {"encoder": self.encoder}
        optimizer = make_optimizer(recipe, self.encoder)
        self._e, optimizer = prepare(accelerator, self.encoder, optimizer)
        self.optimizers = {"encoder": optimizer}
        self.ema = Ema(self.encoder, recipe.ema)

    def step(self, batches: Iterator[Batch], count: int, step: int) -> dict[str, float]:
        """One update of the encoder."""
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with synced(self._accelerator, self._e, i == count - 1), self._accelerator.autocast():
                loss = self.loss(batch)
                self._accelerator.backward(loss / count)
            add_up(sums, {"loss": loss})
        values = settle(self._accelerator, sums, count)
        norm = update(
            self._accelerator, self.optimizers["encoder"], self.encoder, self._recipe.clip
        )
        return {**values, "gradient": float(norm)}

    def loss(self, batch: Batch) -> Tensor:
        """Squared error of the decoded latents in pixels, or of the latents."""
        if self._recipe.encoder_target == "latent":
            with torch.no_grad():
                clean = self._frozen(batch.target).float()
            z = self._e(batch.degraded).float()
            return latent_loss(z, clean, self._weights, self._recipe.logarithm)
        if self._recipe.encoder_target == "frozen":
            z = self._e(batch.degraded)
            with torch.no_grad():
                clean = decode(self._vae, self.prior, self._frozen(batch.target))
        else:
            z, z_clean = self._e(torch.cat([batch.degraded, batch.target])).chunk(2)
            clean = decode(self._vae, self.prior, z_clean)
        result = decode(self._vae, self.prior, z).float()
        loss = pixel_loss(result, clean.float(), self._recipe.logarithm)
        if self._recipe.bands:
            loss = loss + self._recipe.bands * band_loss(result, clean.float())
        return loss

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """The degraded picture, encoded and decoded."""
        with self._accelerator.autocast(), self.ema.applied():
            return decode(self._vae, self.prior, self.encoder(batch.degraded)).float()

    def export(self, folder: Path) -> list[Path]:
        """The averaged encoder, with the fingerprint of its decoder."""
        path = folder / ENCODER_FILE.format(name=self._recipe.name)
        dtype = DTYPES[self._recipe.export]
        with self.ema.applied():
            state = whole(self.encoder.state_for(self._vae))
            encoder = ("encoder.", "quant_conv.")
            state = {k: v.to(dtype) if k.startswith(encoder) else v for k, v in state.items()}
            # Written in here: afterwards the same memory holds the last step's weights again.
            if self._accelerator.is_main_process:
                save_encoder({k: v.cpu() for k, v in state.items()}, path)
        return [path]
