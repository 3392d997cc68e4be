"""The losses of all stages: one entry of LOSSES each.

An entry has a loss's name, description, weight per stage, and function. The options of the command
line, the log and the calls in the stages are derived from it. The published
weights are 1 MSE + 5 LPIPS + 0.5 GAN, in the adversarial stage.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from .bounds import Bounds, Help, Share, settings
from .losses import (
    ENERGY_LEVELS,
    band_loss,
    energy_loss,
    latent_loss,
    pixel_loss,
    pyramid_loss,
    richness_loss,
)
from .perceptual import Lpips
from .precision import no_autocast


@settings
class LossOptions:
    """Settings for the losses of all stages."""

    lpips_backbone: str = ""
    """File of torchvision's vgg16 for LPIPS; empty: torchvision downloads it."""
    energy_side: Annotated[int, Bounds(1, 4096, "coefficients")] = 4
    """Side of the squares in which amounts of detail are compared. Small squares demand detail
    everywhere, even where it cannot be known."""
    energy_octaves: Annotated[int, Bounds(1, ENERGY_LEVELS, "octaves")] = ENERGY_LEVELS
    """Number of octaves whose amounts of detail are compared, from the finest; coarse ones reduce
    PSNR."""


@dataclass(kw_only=True)
class Scene:
    """The inputs of a stage's losses for a batch; None for those that no loss needs."""

    options: LossOptions
    pixels: Tensor | None = None
    """The result (B, 3, H, W) in [-1, 1]."""
    target: Tensor | None = None
    """The target."""
    latent: Tensor | None = None
    """The result, scaled latents (B, C, h, w)."""
    clean: Tensor | None = None
    """Latents of the clean pictures."""
    channels: Tensor | None = None
    """Squared pixel error per squared change of each latent channel (C,)."""
    asked: Tensor | None = None
    """Richness requested by a token (B,)."""
    told: bool = True
    """Whether the network was given that token."""
    price: Callable[[], Tensor] | None = None
    """The generator's GAN loss for the result."""
    networks: Mapping[str, nn.Module] | None = None
    """Frozen networks by the name of their loss."""


@dataclass(frozen=True, eq=False)
class Loss:
    """One loss, wherever it is used."""

    name: str
    text: str
    """Description for the help."""
    weights: Mapping[str, float]
    """Default weight in every stage that has it; "restored" means the restored images of the
    autoencoder stage."""
    call: Callable[[Scene], Tensor]
    needs: tuple[str, ...] = ("pixels",)
    """Its inputs: pixels (decoded), clean (latents), token (of richness), opponent."""
    network: Callable[[LossOptions], nn.Module] | None = None
    """Creates its frozen network."""


LOSSES = (
    Loss(
        "latent",
        "squared error of latents; needs no decoding",
        {"encoder": 0.0, "adversarial": 0.0},
        lambda s: latent_loss(s.latent, s.clean, s.channels),
        needs=("clean",),
    ),
    Loss(
        "log_latent",
        "logarithm of each image's squared error of latents; mild degradation counts as much as "
        "severe degradation",
        {"encoder": 0.0, "adversarial": 0.0},
        lambda s: latent_loss(s.latent, s.clean, s.channels, logarithm=True),
        needs=("clean",),
    ),
    Loss(
        "mse",
        "squared error of pixels in [-1, 1]",
        {"autoencoder": 1.0, "restored": 1.0, "encoder": 1.0, "adversarial": 1.0},
        lambda s: pixel_loss(s.pixels, s.target),
    ),
    Loss(
        "log_mse",
        "logarithm of each image's squared error of pixels, as in PSNR",
        {"autoencoder": 0.0, "restored": 0.0, "encoder": 0.0, "adversarial": 0.0},
        lambda s: pixel_loss(s.pixels, s.target, logarithm=True),
    ),
    Loss(
        "lpips",
        "LPIPS with VGG16",
        {"autoencoder": 0.0, "encoder": 0.0, "adversarial": 5.0},
        lambda s: s.networks["lpips"](s.pixels, s.target),
        network=lambda options: Lpips(options.lpips_backbone),
    ),
    Loss(
        "pyramid",
        "mean absolute difference of Laplacian pyramids",
        {"autoencoder": 1.0, "adversarial": 0.0},
        lambda s: pyramid_loss(s.pixels, s.target),
    ),
    Loss(
        "richness",
        "difference between the richness of the result and the requested one",
        {"adversarial": 0.0},
        # Without a token it has no effect, but all processes compute the same terms.
        lambda s: richness_loss(s.pixels, s.asked) * (1.0 if s.told else 0.0),
        needs=("pixels", "token"),
    ),
    Loss(
        "bands",
        "1 - correlation with the target in Haar bands",
        {"autoencoder": 0.0, "restored": 0.0, "encoder": 0.0, "adversarial": 0.0},
        lambda s: band_loss(s.pixels, s.target),
    ),
    Loss(
        "energy",
        "difference between amounts of detail in Haar bands",
        {"autoencoder": 0.0, "restored": 0.0, "adversarial": 0.0},
        lambda s: energy_loss(s.pixels, s.target, s.options.energy_side, s.options.energy_octaves),
    ),
    Loss(
        "log_energy",
        "difference between logarithms of amounts of detail in Haar bands; images with little "
        "contrast count as much as others",
        {"autoencoder": 0.0, "restored": 0.0, "adversarial": 0.0},
        lambda s: energy_loss(
            s.pixels, s.target, s.options.energy_side, s.options.energy_octaves, logarithm=True
        ),
    ),
    Loss(
        "gan",
        "GAN loss of the generator",
        {"autoencoder": 0.0, "adversarial": 0.5},
        lambda s: s.price(),
        needs=("opponent",),
    ),
)
"""All losses, in the order in which they are computed and added."""


def option_of(part: str, loss: str) -> str:
    """Name of a weight's field; those of the adversarial stage have no prefix."""
    return loss if part == "adversarial" else f"{part}_{loss}"


def _weights_of(part: str, text: str, **more: tuple) -> type:
    """The group of loss weights of one part of a run; `more`: further fields as (type, default)."""
    fields = {option_of(part, loss.name): loss for loss in LOSSES if part in loss.weights}
    kinds = {
        name: Annotated[float, Bounds(0, 10**6), Help(f"Weight: {loss.text}.")]
        for name, loss in fields.items()
    }
    values = {name: loss.weights[part] for name, loss in fields.items()}
    name = f"{part.title()}Losses"
    kinds |= {field: kind for field, (kind, _) in more.items()}
    values |= {field: value for field, (_, value) in more.items()}
    body = {"__doc__": text, "__module__": __name__, "__annotations__": kinds, **values}
    return settings(type(name, (), body))


AutoencoderLosses = _weights_of("autoencoder", "Losses of the autoencoder stage for clean images.")
RestoredLosses = _weights_of(
    "restored",
    "Losses of the autoencoder stage for restored images, if it has any.",
    restored=(
        Annotated[
            Share,
            Help(
                "Share of the autoencoder stage's images whose latent comes from the degraded "
                "image through --encoder-file and, if given, --lora-file, as in actual use."
            ),
        ],
        0.0,
    ),
)
EncoderLosses = _weights_of(
    "encoder",
    "Losses of the encoder stage.",
    encoder_target=(
        Annotated[
            Literal["frozen", "both"],
            Help(
                "Target of the pixels. frozen: D(E0(clean)) with the original encoder; both: "
                "D(E(clean)) as printed in the paper, where both sides move."
            ),
        ],
        "frozen",
    ),
)
AdversarialLosses = _weights_of("adversarial", "Losses of the adversarial stage.")


_FIELDS = {option_of(part, loss.name): loss for loss in LOSSES for part in loss.weights}


def weights_in(group) -> dict[str, float]:
    """The weights of a group that are not 0, by field."""
    return {k: v for k, v in vars(group).items() if k in _FIELDS and v}


def losses_in(group) -> list[Loss]:
    """The losses with a weight in a group."""
    return [_FIELDS[name] for name in weights_in(group)]


class Losses:
    """The losses of a stage that have a weight."""

    def __init__(self, part: str, weights, options: LossOptions, device: torch.device):
        """`part`: of Loss.weights; `weights`: its group.

        Raises:
            ValueError: naming what to download, if the network of a loss cannot be had.
        """
        self._options, self._prefix = options, "restored_" if part == "restored" else ""
        self._device = device
        offered = [loss for loss in LOSSES if part in loss.weights]
        found = {loss: getattr(weights, option_of(part, loss.name)) for loss in offered}
        self._weights = {loss: weight for loss, weight in found.items() if weight}
        self._networks = {
            loss.name: loss.network(options).to(device) for loss in self._weights if loss.network
        }

    def __bool__(self) -> bool:
        return bool(self._weights)

    def need(self, what: str) -> bool:
        """Whether any of them needs pixels, clean latents, a token or an opponent."""
        return any(what in loss.needs for loss in self._weights)

    def terms(self, leave_out: str = "", **shown) -> dict[str, Tensor]:
        """Unweighted values by name, computed in float32 whatever autocast is around.

        Args:
            leave_out: one of Loss.needs that is missing this time.
            shown: fields of Scene.
        """
        scene = Scene(options=self._options, networks=self._networks, **shown)
        asked = [loss for loss in self._weights if leave_out not in loss.needs]
        with no_autocast(self._device):
            return {self._prefix + loss.name: loss.call(scene) for loss in asked}

    def weights(self) -> dict[str, float]:
        """Weights by loss name."""
        return {self._prefix + loss.name: weight for loss, weight in self._weights.items()}


def total(terms: Mapping[str, Tensor], *losses: Losses) -> Tensor:
    """The weighted sum of some losses."""
    weights = {name: weight for own in losses for name, weight in own.weights().items()}
    return sum(weights[name] * value for name, value in terms.items())
