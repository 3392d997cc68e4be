"""Adversarial stage: LoRA and richness token against a discriminator, in pixels.

Paper: HYPIR (arXiv 2507.20590); losses and weights as in the released configuration. Generator and
discriminator take turns on the same pictures, batch by batch, and are updated together at the end
of a step: the discriminator learns from what the generator gave before its update.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hypir.noise import inject_noise

from .architectures import ARCHITECTURES
from .conditions import Draws
from .discriminators import make_discriminator
from .engine import compile_blocks
from .export import export_generator, make_generator, start_from
from .feed import Batch
from .files import LORA_FILE
from .generator import decode, frozen_encoder, latent_weights
from .loop import Ema, trainable
from .loss_list import Losses, total
from .models import DTYPES, Base, load_base, load_vae_part
from .opponent import Judged, Opponent
from .recipe import Recipe
from .recompute import recompute
from .schedule import make_optimizer
from .sharding import is_sharded, prepare, whole
from .text_cache import make_text
from .transfer import send
from .update import Place, Updates, synced
from .weightless import plans


class AdversarialStage(Updates):
    """See loop.Stage."""

    name = "adversarial"
    degrades = True

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self.accelerator = recipe, accelerator
        self.clip = recipe.optimizer.clip
        self._draws = Draws(recipe.conditions, recipe.seed)
        base = base or load_base(recipe)
        self.prior, device = base.prior, accelerator.device
        clean_encoder = frozen_encoder(base.vae, base.prior)
        self._load_encoder(base)
        self._encoder = frozen_encoder(base.vae, base.prior).to(device)
        self._losses = Losses("adversarial", recipe.adversarial_losses, recipe.loss_options, device)
        discriminator = None
        if self._losses.need("opponent"):
            precision = recipe.engine.precision
            discriminator = make_discriminator(recipe.adversary, recipe.seed, base, precision)
        sees_latents = discriminator is not None and discriminator.sees_latents
        wanted = sees_latents or self._losses.need("clean")
        self._clean_encoder = clean_encoder.to(device) if wanted else None
        self._weights = latent_weights(clean_encoder, base.prior.latent_channels).to(device)
        judged = discriminator is not None and not sees_latents
        self._in_pixels = judged or self._losses.need("pixels")
        self._vae, self._text = base.vae.to(device), make_text(base.text, recipe, accelerator)
        generator = make_generator(base, recipe)
        if recipe.files.lora_file:
            start_from(generator, Path(recipe.files.lora_file))
        recompute(recipe.engine, base.network, base.vae)
        if recipe.engine.compile and not plans():
            compile_blocks(base.network)
        self.generator = generator
        self.modules = {"generator": generator}
        optimizer = make_optimizer(recipe.optimizer, trainable(generator).values())
        self._g, optimizer = prepare(accelerator, generator, optimizer)
        self.optimizers = {"generator": optimizer}
        self._opponent = None
        if discriminator is not None:
            self._opponent = Opponent(recipe, discriminator, accelerator)
            self.modules["discriminator"] = discriminator
            self.optimizers["discriminator"] = self._opponent.optimizer
        self.ema = Ema(generator, recipe.schedule.ema)

    def backward(self, batch: Batch, place: Place) -> dict[str, Tensor]:
        """The generator's gradients, then the discriminator's on what it gave."""
        accelerator, opponent = self.accelerator, self._opponent
        with synced(accelerator, self._g, place.last), accelerator.autocast():
            terms, judged = self._generator_terms(batch)
            every = 0 if is_sharded(accelerator) else self._recipe.log.probe_every
            if every and place.index == 0 and place.step % every == 0:
                place.probes.update(self._probe(terms))
            loss = total(terms, self._losses)
            with opponent.kept() if opponent is not None else nullcontext():
                accelerator.backward(loss / place.count)
        values = {**terms, "loss": loss}
        return values | (opponent.learn(judged, place) if judged is not None else {})

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """Restored pixels, at the target's richness and without noise."""
        with self.accelerator.autocast(), self.ema.applied():
            condition = self._text.encode(batch.captions, batch.target.device)
            z = self._encoder(batch.degraded, self._draws.posterior(batch.numbers)).float()
            x0 = self.generator(z, condition.tokens, condition.pooled, batch.richness)
            return self.decode(x0)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels of clean latents."""
        return decode(self._vae, self.prior, x0).float()

    def export(self, folder: Path, precision: str = "") -> list[Path]:
        """The averaged LoRA and richness token."""
        path = folder / LORA_FILE.format(name=self._recipe.name)
        averages = whole(self.ema.shadow)
        if self.accelerator.is_main_process:
            export_generator(
                self.generator, path, averages, DTYPES[precision or self._recipe.saving.export]
            )
        return [path]

    def _generator_terms(self, batch: Batch) -> tuple[dict[str, Tensor], Judged | None]:
        """Loss terms, and what the discriminator is to learn from."""
        z = self._latent(batch)
        with torch.no_grad():
            condition = self._text.encode(batch.captions, z.device)
        draw = self._draws.network(batch.numbers)
        without = bool(draw.random() < self._recipe.conditions.texture_drop)
        asked = self._asked(batch)
        with self._positions(draw):
            x0 = self._g(z, condition.tokens, condition.pooled, asked, without).float()
        pixels = self.decode(x0) if self._in_pixels else None
        clean = None
        if self._clean_encoder is not None:
            with torch.no_grad():
                clean = self._clean_encoder(batch.target).float()
        judged, price = None, None
        if self._opponent is not None:
            fake, real = pixels, batch.target
            if self._opponent.discriminator.sees_latents:
                fake, real = x0, clean
            judged = Judged(real.detach(), fake.detach(), self._draws.judge(batch.numbers))
            price = partial(self._opponent.price, fake, judged.seeds)
        terms = self._losses.terms(
            pixels=pixels,
            target=batch.target,
            latent=x0,
            clean=clean,
            channels=self._weights,
            asked=asked,
            told=not without,
            price=price,
        )
        return terms, judged

    @torch.no_grad()
    def _latent(self, batch: Batch) -> Tensor:
        """Scaled latent of the degraded pictures, with injected noise."""
        z = self._encoder(batch.degraded, self._draws.posterior(batch.numbers)).float()
        return inject_noise(z, *self._draws.noise(batch.numbers))

    def _asked(self, batch: Batch) -> Tensor:
        """The richness that the token asks of each picture (B,)."""
        off = self._draws.richness(batch.numbers)
        return batch.richness if off is None else batch.richness + send(off, batch.richness)

    def _positions(self, draw: np.random.Generator) -> AbstractContextManager:
        if not self._recipe.conditions.random_positions:
            return nullcontext()
        return ARCHITECTURES[self.prior.name].shifted_positions(self.generator.network, draw)

    def _probe(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Norm of each term's gradient, weighted, at the LoRA of the last module."""
        name = [k for k in trainable(self.generator) if ".lora_B." in k][-1]
        probe = trainable(self.generator)[name]
        result, weights = {}, self._losses.weights()
        for term, value in terms.items():
            gradient = torch.autograd.grad(value, probe, retain_graph=True)[0]
            result[f"gradient_{term}"] = float(gradient.norm()) * weights[term]
        return result

    def _load_encoder(self, base: Base) -> None:
        """The degradation-removal encoder: the recipe's, or that of this run, or none."""
        path = self._recipe.files.find("encoder", self._recipe.out, self._recipe.name)
        if path is not None:
            load_vae_part(base.vae, path)
