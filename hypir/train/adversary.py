"""The adversarial game: its settings, and the losses of generator and discriminator.

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
    """Discriminator and GAN, in every stage with a GAN weight."""

    discriminator: Literal[KINDS] = "convnext"
    """Backbone: convnext, dino and clip from timm; unet: the diffusion network's own features;
    patch: no backbone, a small convolutional network on pixels, trained from scratch."""
    discriminator_model: str = ""
    """timm name of another backbone of that kind."""
    discriminator_weights: str = ""
    """File with the backbone's weights; empty: timm downloads them, and unet uses the base
    model's."""
    discriminator_file: str = ""
    """File of heads that the discriminator starts from, such as the released
    HYPIR_sd2_D.safetensors; empty: fresh ones."""
    discriminator_rate: Annotated[float, Bounds(0, 1000, "times the generator's")] = 1.0
    """Learning rate of the discriminator, relative to the generator's; published: 1."""
    gan_loss: Literal["bce", "hinge"] = "bce"
    """Loss of both networks: binary cross entropy (published), or hinge."""
    gan_target: Share = 0.8
    """Target of bce for real images in the discriminator's step."""
    gan_target_generator: Share = 0.8
    """Target of bce for real images in the generator's step. Below 1, the gradient changes sign
    when a logit exceeds log(p / (1 - p)), which is 1.386 for 0.8 (published)."""

    def rules(self) -> None:
        """Check rules between the fields (ValueError if one fails)."""
        if self.discriminator_model and self.discriminator not in TIMM_MODELS:
            raise ValueError(
                f"discriminator_model names a timm backbone, but {self.discriminator!r} has none; "
                f"choose discriminator {', '.join(TIMM_MODELS)}, or leave it empty"
            )
        if self.discriminator_file and self.discriminator == "patch":
            raise ValueError(
                "discriminator_file holds heads of a backbone, and patch has none; choose another "
                "discriminator, or leave it empty"
            )
        if self.discriminator_weights and self.discriminator == "patch":
            raise ValueError(
                "discriminator_weights are for a backbone, but patch has none; choose another "
                "discriminator, or leave them empty"
            )


def generator_loss(logits: Sequence[Tensor], kind: str, target: float) -> Tensor:
    """The generator's GAN loss, summed over levels."""
    if kind == "hinge":
        return sum(-level.mean() for level in logits)
    return sum(_bce(level, target) for level in logits)


def discriminator_loss(
    real: Sequence[Tensor], fake: Sequence[Tensor], kind: str, target: float
) -> Tensor:
    """The discriminator's loss, summed over levels, averaged over real and fake."""
    if kind == "hinge":
        pairs = [
            (F.relu(1 - r).mean(), F.relu(1 + f).mean()) for r, f in zip(real, fake, strict=True)
        ]
    else:
        pairs = [(_bce(r, target), _bce(f, 0.0)) for r, f in zip(real, fake, strict=True)]
    return sum(r + f for r, f in pairs) / 2


def accuracy(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Share of pairs of a real and a fake image in which the real one scores higher.

    It uses the mean over levels and places; 0.5 is chance. A fixed threshold would be wrong: with a
    target of 0.8 for real, logits at chance are log(0.4 / 0.6), not 0.
    """

    def mean(logits: Sequence[Tensor]) -> Tensor:
        return torch.stack([level.flatten(1).mean(1) for level in logits]).mean(0)

    return (mean(real)[:, None] > mean(fake)[None]).float().mean()


def _bce(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
