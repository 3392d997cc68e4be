"""The tiny recipe's first stage: the decoder of an autoencoder in TAESD layout, from scratch.

The encoder is not trained here: it is the best linear code (klt.py), which costs a training step
next to nothing and gives the decoder, which is what takes the time, the same latents from the first
step on. The decoder sees them with a little noise, which keeps close latents close in pixels.

No backbone is at hand, so the loss is a Laplacian pyramid, the squared error, and the amount of
detail (losses.energy_loss), without which the decoder gives the mean of all that a latent may be.

With `autoencoder_gan` a discriminator of pixels takes the place of amounts, or stands beside them:
it tells a pattern that is repeated everywhere from texture, which an amount cannot.

With `restored`, part of the latents are those that a degradation-removal encoder makes of bad
pictures. They are smoother than clean ones, and a decoder that never met such draws smoothly.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from .discriminators import make_discriminator
from .export import make_generator, start_from
from .feed import Batch
from .files import AUTOENCODER_FILE
from .generator import Encoder, frozen_encoder, is_tiny
from .loop import Ema, trainable
from .loss_list import Losses, total
from .models import DTYPES, Base, load_base, load_vae_part, save_autoencoder
from .opponent import Judged, Opponent
from .recipe import Recipe
from .schedule import make_optimizer
from .sharding import prepare, whole
from .update import Place, Updates, synced

LATENT_NOISE = 0.05
"""Deviation of the decoder's noise in training."""


class _Restoring(nn.Module):
    """Bad pictures to the latents that the decoder will be given for them; not trained."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        base = load_base(recipe)
        load_vae_part(base.vae, Path(recipe.files.encoder_file))
        self.encoder = Encoder(base.vae, base.prior)
        self.generator, self._text = None, base.text
        if recipe.files.lora_file:
            self.generator = make_generator(base, recipe)
            start_from(self.generator, Path(recipe.files.lora_file))
        self.requires_grad_(False).eval()

    def forward(self, degraded: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] to scaled latents, without text and richness."""
        z = self.encoder(degraded)
        if self.generator is None:
            return z
        condition = self._text.encode([""] * len(z), z.device)
        return self.generator(z, condition.tokens, condition.pooled)


class AutoencoderStage(Updates):
    """See loop.Stage."""

    name = "autoencoder"

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self.accelerator = recipe, accelerator
        self.clip = recipe.optimizer.clip
        self._base = base or load_base(recipe)
        if not is_tiny(self._base.vae):
            raise ValueError(
                f"the autoencoder stage trains the TAESD layout of the tiny base, not that of "
                f"{recipe.model.base!r}; leave it out of --stages"
            )
        self._encoder = frozen_encoder(self._base.vae, self._base.prior).to(accelerator.device)
        self._restored = recipe.restored_losses.restored
        self.degrades = self._restored > 0
        if self.degrades:
            self._restoring = _Restoring(recipe).to(accelerator.device)
        self.decoder = self._base.vae.decoder.requires_grad_(True).train()
        self.modules = {"decoder": self.decoder}
        optimizer = make_optimizer(recipe.optimizer, trainable(self.decoder).values())
        self._d, optimizer = prepare(accelerator, self.decoder, optimizer)
        self.optimizers = {"decoder": optimizer}
        options, device = recipe.loss_options, accelerator.device
        self._losses = Losses("autoencoder", recipe.autoencoder_losses, options, device)
        self._of_restored = Losses("restored", recipe.restored_losses, options, device)
        self._opponent = None
        if self._losses.need("opponent"):
            precision, seed = recipe.engine.precision, recipe.seed
            discriminator = make_discriminator(recipe.adversary, seed, self._base, precision)
            self._opponent = Opponent(recipe, discriminator, accelerator)
            self.modules["discriminator"] = discriminator
            self.optimizers["discriminator"] = self._opponent.optimizer
        self.ema = Ema(self.decoder, recipe.schedule.ema)

    def backward(self, batch: Batch, place: Place) -> dict[str, Tensor]:
        """The decoder's gradients, then its opponent's, if it has one."""
        accelerator, opponent = self.accelerator, self._opponent
        with synced(accelerator, self._d, place.last), accelerator.autocast():
            terms, pixels = self.terms(batch)
            loss = total(terms, self._losses, self._of_restored)
            with opponent.kept() if opponent is not None else nullcontext():
                accelerator.backward(loss / place.count)
        values = {**terms, "loss": loss}
        if opponent is None:
            return values
        judged = Judged(batch.target, pixels.detach(), batch.numbers)
        return values | opponent.learn(judged, place)

    def terms(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms of a batch, not weighted, and pixels, the first of which are restored ones.

        The discriminator asks its price for all of them.
        """
        count = round(len(batch.target) * self._restored)
        with torch.no_grad():
            z = self._encoder(batch.target[count:])
            z = z + LATENT_NOISE * torch.randn_like(z)
            if count:
                z = torch.cat([self._restoring(batch.degraded[:count]), z])
        pixels = self._d(z).float()

        def price() -> Tensor:
            return self._opponent.price(pixels, batch.numbers)

        terms = self._losses.terms(
            leave_out="" if count < len(pixels) else "pixels",
            pixels=pixels[count:],
            target=batch.target[count:],
            price=price,
        )
        if count:
            # They have no pyramid: means of absolute values want the uncertain to be left out.
            terms |= self._of_restored.terms(pixels=pixels[:count], target=batch.target[:count])
        return terms, pixels

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """The clean picture, there and back."""
        with self.accelerator.autocast(), self.ema.applied():
            return self.decoder(self._encoder(batch.target)).float()

    def export(self, folder: Path, precision: str = "") -> list[Path]:
        """The averaged autoencoder, as the host loads it."""
        path, dtype = folder / AUTOENCODER_FILE, DTYPES[precision or self._recipe.saving.export]
        with self.ema.applied():
            state = whole(self._base.vae.state_dict())
            # Written in here: afterwards the same memory holds the last step's weights again.
            if self.accelerator.is_main_process:
                save_autoencoder(state, path, dtype, self._base.prior)
        return [path]
