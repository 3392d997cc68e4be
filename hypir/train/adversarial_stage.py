"""Adversarial stage: LoRA and richness token against a discriminator, in pixels.

Paper: HYPIR (arXiv 2507.20590); losses and weights as in the released configuration. Generator and
discriminator take turns on the same pictures: a step updates the generator, then the discriminator
on what the generator gave before its update.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypir.noise import inject_noise

from .architectures import ARCHITECTURES
from .data import Batch, derive_seed
from .discriminators import make_discriminator
from .export import export_generator, make_generator, start_from
from .generator import (
    decode,
    frozen_encoder,
    is_tiny,
    latent_weights,
    luma_shares,
)
from .loop import Ema, add_up, make_optimizer, settle, synced, trainable, update
from .losses import (
    Lpips,
    band_loss,
    energy_loss,
    latent_energy_loss,
    latent_loss,
    pixel_loss,
    pyramid_loss,
    richness_loss,
)
from .models import DTYPES, Base, load_base, load_vae_part
from .opponent import Opponent, Round
from .recipes import Recipe
from .sharding import is_sharded, prepare, whole

ENCODER_FILE = "{name}_encoder.safetensors"
LORA_FILE = "{name}_lora.safetensors"


class AdversarialStage:
    """See loop.Stage."""

    name = "adversarial"
    degrades = True

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self._accelerator = recipe, accelerator
        base = base or load_base(recipe)
        self.prior, device = base.prior, accelerator.device
        clean_encoder = frozen_encoder(base.vae, base.prior)
        self._load_encoder(base)
        self._encoder = frozen_encoder(base.vae, base.prior).to(device)
        discriminator = make_discriminator(recipe, base) if recipe.gan else None
        self._lpips = Lpips(recipe.lpips_backbone).to(device) if recipe.lpips else None
        sees_latents = discriminator is not None and discriminator.sees_latents
        wanted = sees_latents or recipe.latent or recipe.latent_energy
        self._clean_encoder = clean_encoder.to(device) if wanted else None
        self._weights = latent_weights(clean_encoder, base.prior.latent_channels).to(device)
        self._shares = luma_shares(clean_encoder, base.prior.latent_channels).to(device)
        self._in_pixels = any(
            (recipe.mse, recipe.lpips, recipe.pyramid, recipe.bands, recipe.energy, recipe.richness)
        )
        self._in_pixels |= discriminator is not None and not sees_latents
        self._vae, self._text = base.vae.to(device), base.text.to(device)
        generator = make_generator(base, recipe)
        if recipe.lora_file:
            start_from(generator, Path(recipe.lora_file))
        if recipe.gradient_checkpointing:
            base.network.enable_gradient_checkpointing()
            if not is_tiny(base.vae):
                base.vae.enable_gradient_checkpointing()
        self.generator = generator
        self.modules = {"generator": generator}
        self._g, optimizer = prepare(accelerator, generator, make_optimizer(recipe, generator))
        self.optimizers = {"generator": optimizer}
        self._opponent = None
        if discriminator is not None:
            self._opponent = Opponent(recipe, discriminator, accelerator)
            self.modules["discriminator"] = discriminator
            self.optimizers["discriminator"] = self._opponent.optimizer
        self.ema = Ema(generator, recipe.ema)

    def step(self, batches: Iterator[Batch], count: int, step: int) -> dict[str, float]:
        """Update the generator on all batches, then the discriminator on the same."""
        sums: dict[str, Tensor] = {}
        rounds, probes = [], {}
        for i, batch in enumerate(batches):
            with synced(self._accelerator, self._g, i == count - 1), self._accelerator.autocast():
                terms, judged = self._generator_terms(batch)
                every = 0 if is_sharded(self._accelerator) else self._recipe.probe_every
                if every and i == 0 and step % every == 0:
                    probes = self._probe(terms)
                loss = sum(getattr(self._recipe, k) * v for k, v in terms.items())
                self._accelerator.backward(loss / count)
            add_up(sums, {**terms, "loss": loss})
            if judged is not None:
                rounds.append(judged)
        values = settle(self._accelerator, sums, count)
        norm = update(
            self._accelerator, self.optimizers["generator"], self.generator, self._recipe.clip
        )
        values |= {"gradient": float(norm), **probes}
        return values | (self._opponent.learn(rounds) if rounds else {})

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """Restored pixels, at the target's richness and without noise."""
        with self._accelerator.autocast(), self.ema.applied():
            condition = self._text.encode(batch.captions, batch.target.device)
            z = self._encoder(batch.degraded, self._posterior(batch)).float()
            x0 = self.generator(z, condition.tokens, condition.pooled, batch.richness)
            return self.decode(x0)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels of clean latents."""
        return decode(self._vae, self.prior, x0).float()

    def export(self, folder: Path) -> list[Path]:
        """The averaged LoRA and richness token."""
        path = folder / LORA_FILE.format(name=self._recipe.name)
        averages = whole(self.ema.shadow)
        if self._accelerator.is_main_process:
            export_generator(self.generator, path, averages, DTYPES[self._recipe.export])
        return [path]

    def _generator_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Round | None]:
        """Loss terms, and what the discriminator is to learn from."""
        z = self._latent(batch)
        with torch.no_grad():
            condition = self._text.encode(batch.captions, z.device)
        draw = self._rng("network", batch.numbers[0])
        without = bool(draw.random() < self._recipe.texture_drop)
        asked = self._asked(batch)
        with self._positions(draw):
            x0 = self._g(z, condition.tokens, condition.pooled, asked, without).float()
        pixels = self.decode(x0) if self._in_pixels else None
        terms, clean = {}, None
        if self._clean_encoder is not None:
            with torch.no_grad():
                clean = self._clean_encoder(batch.target).float()
        if self._recipe.latent:
            terms["latent"] = latent_loss(x0, clean, self._weights, self._recipe.logarithm)
        if self._recipe.latent_energy:
            side = self._recipe.energy_side
            # Of brightness: made-up colour is seen as specks, not as detail.
            weights = self._weights * self._shares.square()
            terms["latent_energy"] = latent_energy_loss(
                x0, clean, weights, side, self._recipe.logarithm
            )
        if self._recipe.mse:
            terms["mse"] = pixel_loss(pixels, batch.target, self._recipe.logarithm)
        if self._lpips is not None:
            terms["lpips"] = self._lpips(pixels, batch.target)
        if self._recipe.pyramid:
            terms["pyramid"] = pyramid_loss(pixels, batch.target)
        if self._recipe.richness:
            # Without a token it counts for nothing, but every process has the same terms.
            terms["richness"] = richness_loss(pixels, asked) * (0.0 if without else 1.0)
        if self._recipe.bands:
            terms["bands"] = band_loss(pixels, batch.target)
        if self._recipe.energy:
            terms["energy"] = energy_loss(
                pixels,
                batch.target,
                self._recipe.energy_side,
                self._recipe.energy_octaves,
                self._recipe.logarithm,
            )
        if self._opponent is None:
            return terms, None
        seeds = [derive_seed(self._recipe.seed, "judge", n) for n in batch.numbers]
        fake, real = pixels, batch.target
        if self._opponent.discriminator.sees_latents:
            fake, real = x0, clean
        terms["gan"] = self._opponent.price(fake, seeds)
        return terms, Round(real.detach(), fake.detach(), seeds)

    @torch.no_grad()
    def _latent(self, batch: Batch) -> Tensor:
        """Scaled latent of the degraded pictures, with injected noise."""
        z = self._encoder(batch.degraded, self._posterior(batch)).float()
        strengths, seeds = [], []
        for number in batch.numbers:
            draw = self._rng("noise", number)
            off = draw.random() < self._recipe.noise_off
            strengths.append(0.0 if off else draw.uniform(0, self._recipe.noise))
            seeds.append(int(draw.integers(0, 2**63)))
        return inject_noise(z, strengths, seeds)

    def _asked(self, batch: Batch) -> Tensor:
        """The richness that the token asks of each picture (B,)."""
        spread = self._recipe.richness_spread
        if not spread:
            return batch.richness
        draws = [self._rng("richness", n).uniform(-spread, spread) for n in batch.numbers]
        return batch.richness + batch.richness.new_tensor(draws)

    def _posterior(self, batch: Batch) -> list[int] | None:
        if self._recipe.posterior == "mean":
            return None
        return [derive_seed(self._recipe.seed, "posterior", n) for n in batch.numbers]

    def _positions(self, draw: np.random.Generator) -> AbstractContextManager:
        if not self._recipe.random_positions:
            return nullcontext()
        return ARCHITECTURES[self.prior.name].shifted_positions(self.generator.network, draw)

    def _probe(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Norm of each term's gradient, weighted, at the LoRA of the last module."""
        name = [k for k in trainable(self.generator) if ".lora_B." in k][-1]
        probe = trainable(self.generator)[name]
        result = {}
        for term, value in terms.items():
            gradient = torch.autograd.grad(value, probe, retain_graph=True)[0]
            result[f"gradient_{term}"] = float(gradient.norm()) * getattr(self._recipe, term)
        return result

    def _rng(self, purpose: str, number: int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._recipe.seed, purpose, number))

    def _load_encoder(self, base: Base) -> None:
        """The degradation-removal encoder: the recipe's, or that of this run, or none."""
        given = self._recipe.encoder_file
        path = Path(given or Path(self._recipe.out) / ENCODER_FILE.format(name=self._recipe.name))
        if given or path.is_file():
            load_vae_part(base.vae, path)
