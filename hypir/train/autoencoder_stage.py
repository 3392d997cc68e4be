"""The tiny recipe's first stage: an autoencoder in TAESD layout from scratch.

No backbone is at hand, so the loss is a Laplacian pyramid, the squared error, and chroma in means
of 8x8 pixels from the first step on, since colour is learnt last. Latents are pulled to zero mean
and unit deviation per channel, which is what the network of the next stage and its noise levels
expect, and the decoder sees them with a little noise, which keeps close latents close in pixels.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import Batch
from .generator import is_tiny
from .loop import Ema, add_up, make_optimizer, settle, synced, update
from .losses import chroma_loss, pyramid_loss
from .models import AUTOENCODER_FILE, DTYPES, Base, load_base, save_autoencoder
from .recipes import Recipe

PYRAMID, SQUARED, CHROMA, MOMENTS = 1.0, 1.0, 2.0, 0.02
"""Weights of the terms."""
LATENT_NOISE = 0.03
"""Deviation of the decoder's noise in training."""


class Autoencoder(nn.Module):
    """Both halves in one call, so that processes that train together exchange all gradients."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """Reconstruction (B, 3, H, W) and latent; `noise` is added in between."""
        z = self.vae.encoder(pixels)
        noisy = z + noise * torch.randn_like(z) if noise else z
        return self.vae.decoder(noisy), z


class AutoencoderStage:
    """See loop.Stage."""

    name = "autoencoder"

    def __init__(self, recipe: Recipe, accelerator, base: Base | None = None):
        self._recipe, self._accelerator = recipe, accelerator
        self._base = base or load_base(recipe)
        if not is_tiny(self._base.vae):
            raise ValueError(
                f"the autoencoder stage trains the TAESD layout of the tiny base, not that of "
                f"{recipe.base!r}; leave it out of --stages"
            )
        self.autoencoder = Autoencoder(self._base.vae).requires_grad_(True).train()
        self.modules = {"autoencoder": self.autoencoder}
        self._a = accelerator.prepare(self.autoencoder)
        optimizer = make_optimizer(recipe, self.autoencoder)
        self.optimizers = {"autoencoder": accelerator.prepare(optimizer)}
        self.ema = Ema(self.autoencoder, recipe.ema)

    def step(self, batches: Iterator[Batch], count: int, step: int) -> dict[str, float]:
        """One update of both halves."""
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with synced(self._accelerator, self._a, i == count - 1), self._accelerator.autocast():
                pixels, z = self._a(batch.target, LATENT_NOISE)
                pixels, z = pixels.float(), z.float()
                terms = {
                    "pyramid": PYRAMID * pyramid_loss(pixels, batch.target),
                    "mse": SQUARED * F.mse_loss(pixels, batch.target),
                    "chroma": CHROMA * chroma_loss(pixels, batch.target),
                    "moments": MOMENTS * moments_loss(z),
                }
                loss = sum(terms.values())
                self._accelerator.backward(loss / count)
            add_up(sums, {**terms, "loss": loss})
        values = settle(self._accelerator, sums, count)
        optimizer = self.optimizers["autoencoder"]
        norm = update(self._accelerator, optimizer, self.autoencoder, self._recipe.clip)
        return {**values, "gradient": float(norm)}

    @torch.no_grad()
    def result(self, batch: Batch) -> Tensor:
        """The clean picture, there and back."""
        with self._accelerator.autocast(), self.ema.applied():
            return self.autoencoder(batch.target)[0].float()

    def export(self, folder: Path) -> list[Path]:
        """The averaged autoencoder, as the host loads it."""
        path, dtype = folder / AUTOENCODER_FILE, DTYPES[self._recipe.export]
        with self.ema.applied():
            save_autoencoder(self._base.vae, path, dtype, self._base.prior)
        return [path]


def moments_loss(z: Tensor) -> Tensor:
    """mean^2 + (log variance)^2, averaged over channels: zero for unit normal latents."""
    variance, mean = torch.var_mean(z, dim=(0, 2, 3))
    return (mean.square() + (variance + 1e-6).log().square()).mean()
