"""The losses of all stages: one entry of LOSSES each.

An entry is a loss's name, what it is, its weight in every stage that offers it, and its call. The
options of the command line, the log and the calls of the stages all come from there. The published
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


@settings
class LossOptions:
    """What the losses of all stages share."""

    lpips_backbone: str = ""
    """File of torchvision's vgg16 for LPIPS; empty: torchvision downloads it."""
    energy_side: Annotated[int, Bounds(1, 4096, "coefficients")] = 4
    """Side of the squares in which amounts of detail are compared. Small ones ask for detail
    everywhere, also where none can be known."""
    energy_octaves: Annotated[int, Bounds(1, ENERGY_LEVELS, "octaves")] = ENERGY_LEVELS
    """Octaves whose amounts of detail are compared, from the finest on; coarse ones cost PSNR."""


@dataclass(kw_only=True)
class Scene:
    """What a stage shows its losses of a batch; None for what none of them needs."""

    options: LossOptions
    pixels: Tensor | None = None
    """The result (B, 3, H, W) in [-1, 1]."""
    target: Tensor | None = None
    """What it should be."""
    latent: Tensor | None = None
    """The result, scaled latents (B, C, h, w)."""
    clean: Tensor | None = None
    """Latents of the clean pictures."""
    channels: Tensor | None = None
    """What a squared step of each latent channel costs in squared pixels (C,)."""
    asked: Tensor | None = None
    """Richness that a token asks for (B,)."""
    told: bool = True
    """Whether the network was given that token."""
    price: Callable[[], Tensor] | None = None
    """What the discriminator asks for the result."""
    networks: Mapping[str, nn.Module] | None = None
    """Frozen networks of the losses that have one, by name of the loss."""


@dataclass(frozen=True, eq=False)
class Loss:
    """One loss, wherever it is used."""

    name: str
    text: str
    """What it compares, for the help."""
    weights: Mapping[str, float]
    """Default weight in every stage that offers it; "restored" are the autoencoder stage's restored
    pictures."""
    call: Callable[[Scene], Tensor]
    needs: tuple[str, ...] = ("pixels",)
    """Of pixels (decoded), clean (latents), token (of richness) and opponent."""
    network: Callable[[LossOptions], nn.Module] | None = None
    """Makes the frozen network that it compares with."""


LOSSES = (
    Loss(
        "latent",
        "squared error of latents, which needs no decoding",
        {"encoder": 0.0, "adversarial": 0.0},
        lambda s: latent_loss(s.latent, s.clean, s.channels),
        needs=("clean",),
    ),
    Loss(
        "log_latent",
        "logarithm of each picture's squared error of latents: a mild degradation weighs as much "
        "as one that leaves little to know",
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
        "logarithm of each picture's squared error of pixels, as in PSNR",
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
        "difference between the richness of the result and the one asked for",
        {"adversarial": 0.0},
        # Without a token it counts for nothing, but every process has the same terms.
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
        "difference between logarithms of the amounts: faint pictures weigh as much as others",
        {"autoencoder": 0.0, "restored": 0.0, "adversarial": 0.0},
        lambda s: energy_loss(
            s.pixels, s.target, s.options.energy_side, s.options.energy_octaves, logarithm=True
        ),
    ),
    Loss(
        "gan",
        "what the discriminator asks for the result",
        {"autoencoder": 0.0, "adversarial": 0.5},
        lambda s: s.price(),
        needs=("opponent",),
    ),
)
"""In the order in which they are computed and added up."""


def option_of(part: str, loss: str) -> str:
    """Name of the field that holds a weight: the adversarial stage's go without the stage."""
    return loss if part == "adversarial" else f"{part}_{loss}"


def _weights_of(part: str, text: str, **more: tuple) -> type:
    """The group of the weights that one part of a run may give; `more`: (type, default) each."""
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


AutoencoderLosses = _weights_of("autoencoder", "What the decoder pays for clean pictures.")
RestoredLosses = _weights_of(
    "restored",
    "What the decoder pays for restored pictures, if there are any among its own.",
    restored=(
        Annotated[
            Share,
            Help(
                "Share of the autoencoder stage's pictures whose latent is what --encoder-file "
                "and, if given, --lora-file make of the degraded one, as the decoder meets it in "
                "use."
            ),
        ],
        0.0,
    ),
)
EncoderLosses = _weights_of(
    "encoder",
    "What the degradation-removal encoder pays.",
    encoder_target=(
        Annotated[
            Literal["frozen", "both"],
            Help(
                "What pixels are compared with: frozen: D(E0(clean)) with the encoder as it was; "
                "both: D(E(clean)), as printed, which lets both sides move."
            ),
        ],
        "frozen",
    ),
)
AdversarialLosses = _weights_of("adversarial", "What the LoRA pays in the adversarial stage.")


_FIELDS = {option_of(part, loss.name): loss for loss in LOSSES for part in loss.weights}


def weights_in(group) -> dict[str, float]:
    """The weights of a group that are not 0, by field."""
    return {k: v for k, v in vars(group).items() if k in _FIELDS and v}


def losses_in(group) -> list[Loss]:
    """The losses to which a group gives a weight."""
    return [_FIELDS[name] for name in weights_in(group)]


class Losses:
    """The losses of a stage that have a weight."""

    def __init__(self, part: str, weights, options: LossOptions, device: torch.device):
        """`part`: of Loss.weights; `weights`: its group.

        Raises:
            ValueError: naming what to download, if the network of a loss cannot be had.
        """
        self._options, self._prefix = options, "restored_" if part == "restored" else ""
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
        """Values by name, not weighted.

        Args:
            leave_out: one of Loss.needs, of which there is nothing this time.
            shown: fields of Scene.
        """
        scene = Scene(options=self._options, networks=self._networks, **shown)
        asked = [loss for loss in self._weights if leave_out not in loss.needs]
        return {self._prefix + loss.name: loss.call(scene) for loss in asked}

    def weights(self) -> dict[str, float]:
        """Weights by the names of the terms."""
        return {self._prefix + loss.name: weight for loss, weight in self._weights.items()}


def total(terms: Mapping[str, Tensor], *losses: Losses) -> Tensor:
    """The weighted sum of the terms of some Losses."""
    weights = {name: weight for own in losses for name, weight in own.weights().items()}
    return sum(weights[name] * value for name, value in terms.items())
