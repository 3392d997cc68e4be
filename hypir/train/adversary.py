"""The game of generator and discriminator: its settings, and what the two players pay.

The losses are those of vision-aided GANs (Kumari et al. 2022): binary cross entropy with a target
of 0.8 for real, summed over levels; or hinge.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .bounds import Bounds, Share, settings

TIMM_MODELS = {
    "convnext": "convnext_xxlarge.clip_laion2b_soup",
    "dino": "vit_base_patch14_dinov2.lvd142m",
    "clip": "vit_base_patch16_clip_224.openai",
}
"""timm's names; the first is OpenCLIP's laion2b_s34b_b82k_augreg_soup, the published one."""
KINDS = (*TIMM_MODELS, "unet", "patch")


@settings
class Adversary:
    """The discriminator and its game with the generator, in every stage whose GAN has a weight."""

    discriminator: Literal[KINDS] = "convnext"
    """Its backbone: convnext, dino and clip are timm's; unet: the diffusion network's own features;
    patch: none, a small convolutional network in pixels that learns from nothing."""
    discriminator_model: str = ""
    """timm's name of another backbone of that kind."""
    discriminator_weights: str = ""
    """File of the backbone's weights; empty: timm downloads them; of unet, those of the base
    model."""
    discriminator_file: str = ""
    """File of heads that the discriminator starts from, such as the released
    HYPIR_sd2_D.safetensors; empty: fresh ones."""
    discriminator_rate: Annotated[float, Bounds(0, 1000, "times the generator's")] = 1.0
    """Learning rate of the discriminator; 1 as published."""
    gan_loss: Literal["bce", "hinge"] = "bce"
    """What the two players pay: cross entropy as published, or hinge."""
    gan_target: Share = 0.8
    """What bce takes for a real picture when the discriminator learns."""
    gan_target_generator: Share = 0.8
    """What bce takes for a real picture when the generator learns. Below 1 the gradient turns round
    once a logit passes log(p / (1 - p)), 1.386 for 0.8 (published)."""

    def rules(self) -> None:
        """What must hold between them (ValueError otherwise)."""
        if self.discriminator_model and self.discriminator not in TIMM_MODELS:
            raise ValueError(
                f"discriminator_model is the name of a backbone of timm, which "
                f"{self.discriminator!r} has none of; choose discriminator "
                f"{', '.join(TIMM_MODELS)}, or leave it empty"
            )
        if self.discriminator_file and self.discriminator == "patch":
            raise ValueError(
                "discriminator_file holds heads of a backbone, and patch has none; choose another "
                "discriminator, or leave it empty"
            )
        if self.discriminator_weights and self.discriminator == "patch":
            raise ValueError(
                "discriminator_weights are those of a backbone, and patch has none; choose another "
                "discriminator, or leave them empty"
            )


def generator_loss(logits: Sequence[Tensor], kind: str, target: float) -> Tensor:
    """What the generator pays for looking restored, summed over levels."""
    if kind == "hinge":
        return sum(-level.mean() for level in logits)
    return sum(_bce(level, target) for level in logits)


def discriminator_loss(
    real: Sequence[Tensor], fake: Sequence[Tensor], kind: str, target: float
) -> Tensor:
    """What the discriminator pays for mistakes, summed over levels, halved over real and fake."""
    if kind == "hinge":
        pairs = [
            (F.relu(1 - r).mean(), F.relu(1 + f).mean()) for r, f in zip(real, fake, strict=True)
        ]
    else:
        pairs = [(_bce(r, target), _bce(f, 0.0)) for r, f in zip(real, fake, strict=True)]
    return sum(r + f for r, f in pairs) / 2


def accuracy(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Share of pairs of a real and a fake picture in which the real one looks more real.

    By the mean over levels and places; 0.5 is chance. A fixed threshold would not do: with a target
    of 0.8 for real, logits at chance are log(0.4 / 0.6), not 0.
    """

    def mean(logits: Sequence[Tensor]) -> Tensor:
        return torch.stack([level.flatten(1).mean(1) for level in logits]).mean(0)

    return (mean(real)[:, None] > mean(fake)[None]).float().mean()


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
