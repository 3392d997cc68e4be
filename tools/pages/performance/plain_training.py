"""The two stages' steps as one would write them down: what the loop of hypir.train is held against.

Batches lie ready (no pool), no accelerate, averages of one parameter after the other, the LoRA as
peft keeps it, and forward, backward and optimizer in a row. Networks and losses are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hypir.train.adversary import discriminator_loss, generator_loss
from hypir.train.data import derive_seed
from hypir.train.discriminators import make_discriminator
from hypir.train.encoder_stage import trainable_encoder
from hypir.train.export import make_generator
from hypir.train.feed import Batch
from hypir.train.generator import Encoder, decode, is_tiny
from hypir.train.loop import trainable
from hypir.train.losses import energy_loss, pyramid_loss
from hypir.train.models import Base
from hypir.train.recipe import Recipe

KNOWN = {"encoder_mse": 1.0, "encoder_log_latent": 0.0, "mse": 1.0, "log_mse": 0.0}
KNOWN |= {"energy": 0.1, "log_energy": 0.0, "bands": 0.0, "pyramid": 2.0}
"""Settings that the plain steps need of a recipe; what else small may ask for they do not know."""


class PlainEncoder:
    """The encoder stage."""

    def __init__(self, recipe: Recipe, base: Base, device: torch.device):
        self.recipe, self.prior, self.device = recipe, base.prior, device
        self.vae = base.vae.to(device)
        if recipe.engine.gradient_checkpointing and not is_tiny(self.vae):
            self.vae.enable_gradient_checkpointing()
        self.frozen = Encoder(self.vae, self.prior).requires_grad_(False).eval()
        self.encoder = trainable_encoder(base, recipe)
        self.learner = Learner(recipe, self.encoder, recipe.schedule.encoder[0].lr)
        self.shadow = {k: p.detach().clone() for k, p in trainable(self.encoder).items()}

    def step(self, batch: Batch) -> float:
        """One update; the loss."""
        with autocast(self.recipe, self.device):
            z = self.encoder(batch.degraded)
            with torch.no_grad():
                clean = decode(self.vae, self.prior, self.frozen(batch.target))
            loss = F.mse_loss(decode(self.vae, self.prior, z).float(), clean.float())
        loss.backward()
        self.learner.update()
        average(self.encoder, self.shadow, self.recipe.schedule.ema)
        return float(loss.detach())


class PlainAdversarial:
    """The adversarial stage; the discriminator sees latents (`unet`), LPIPS is off."""

    def __init__(self, recipe: Recipe, base: Base, device: torch.device):
        self.recipe, self.prior, self.device = recipe, base.prior, device
        self.vae, self.text = base.vae.to(device), base.text.to(device)
        self.encoder = Encoder(self.vae, self.prior).requires_grad_(False).eval()
        self.discriminator = make_discriminator(recipe.adversary, recipe.seed, base).to(device)
        self.generator = make_generator(base, recipe).to(device)
        if recipe.engine.gradient_checkpointing:
            base.network.enable_gradient_checkpointing()
            if not is_tiny(self.vae):
                self.vae.enable_gradient_checkpointing()
        rate = recipe.schedule.adversarial[0].lr
        self.learner = Learner(recipe, self.generator, rate)
        self.judge = Learner(recipe, self.discriminator, rate * recipe.adversary.discriminator_rate)
        trained = {k: p for k, p in self.generator.named_parameters() if p.requires_grad}
        self.shadow = {k: p.detach().clone() for k, p in trained.items()}

    def step(self, batch: Batch) -> float:
        """One update of the generator, then one of the discriminator; the generator's loss."""
        recipe, r, game = self.recipe, self.recipe.adversarial_losses, self.recipe.adversary
        seeds = [derive_seed(recipe.seed, "judge", n) for n in batch.numbers]
        with autocast(recipe, self.device):
            with torch.no_grad():
                z = self.encoder(batch.degraded).float()
                strength = recipe.conditions.noise * torch.rand(len(z), 1, 1, 1, device=z.device)
                z = z + strength * torch.randn_like(z)
                real = self.encoder(batch.target).float()
                condition = self.text.encode(batch.captions, z.device)
            x0 = self.generator(z, condition.tokens, condition.pooled, batch.richness).float()
            pixels = decode(self.vae, self.prior, x0).float()
            self.judge.freeze()
            logits = self.discriminator.eval()(x0, seeds)
            loss = r.mse * F.mse_loss(pixels, batch.target)
            loss = loss + r.gan * generator_loss(logits, game.gan_loss, game.gan_target_generator)
            if r.pyramid:
                loss = loss + r.pyramid * pyramid_loss(pixels, batch.target)
            if r.energy:
                side = recipe.loss_options.energy_side
                loss = loss + r.energy * energy_loss(pixels, batch.target, side)
        loss.backward()
        self.learner.update()
        self.judge.freeze(False)
        self.discriminator.train()
        with autocast(recipe, self.device):
            logits = self.discriminator(torch.cat([real, x0.detach()]), seeds * 2)
            half = len(real)
            on_real, on_fake = [x[:half] for x in logits], [x[half:] for x in logits]
            judged = discriminator_loss(on_real, on_fake, game.gan_loss, game.gan_target)
        judged.backward()
        self.judge.update()
        average(self.generator, self.shadow, recipe.schedule.ema)
        return float(loss.detach())


class Learner:
    """Trained parameters of a module and their AdamW."""

    def __init__(self, recipe: Recipe, module: nn.Module, rate: float):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        options = {"betas": recipe.optimizer.betas, "weight_decay": recipe.optimizer.weight_decay}
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, **options)
        self.clip = recipe.optimizer.clip

    def freeze(self, frozen: bool = True) -> None:
        """Whether gradients are left out."""
        for parameter in self.parameters:
            parameter.requires_grad_(not frozen)

    def update(self) -> None:
        """Clip, step, forget the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()


@torch.no_grad()
def average(module: nn.Module, shadow: dict[str, Tensor], decay: float) -> None:
    """Moving averages, one parameter after the other."""
    for name, parameter in module.named_parameters():
        if name in shadow:
            shadow[name].mul_(decay).add_(parameter, alpha=1 - decay)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The recipe's precision (fp32 or bf16)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.engine.precision == "bf16")


PLAIN = {"encoder": PlainEncoder, "adversarial": PlainAdversarial}
