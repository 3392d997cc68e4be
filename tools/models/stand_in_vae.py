"""The stand-in's VAE: TAESD's layout with hand-made weights.

The encoder takes the mean colour of every 8x8 block, the decoder puts it back with linear
enlarging. Channels 0 to 2 carry red, green and blue in [0, 1]; channel 3 of the decoder carries
a one, with which it repairs what the zero padding takes from the border.
"""

from __future__ import annotations

import torch
from torch import Tensor

VAE_WIDTH = 64  # channels of TAESD
LATENT_SCALE = 0.18215  # SD 2.1 VAE config

ONE = 3
HALVE = (0.0, 0.5, 0.5)  # taps at -1, 0, 1 with stride 2: the mean of pixels 2i and 2i+1
SMOOTH = (0.25, 0.5, 0.25)  # after doubling pixels: linear interpolation
EDGE, CORNER = 0.75, 0.75**2  # what SMOOTH leaves of a one beside one border, beside two
GATE = 8.0  # far above any colour: closes a ReLU where the repair does not belong


def vae_weights() -> dict[str, Tensor]:
    """State dict in TAESD's layout; block means in, bilinear enlarging out."""
    zero = torch.zeros(1).half()
    weights: dict[str, Tensor] = {}

    def conv(name: str, out: int = VAE_WIDTH, into: int = VAE_WIDTH, bias: bool = True) -> None:
        weights[f"{name}.weight"] = zero.expand(out, into, 3, 3)
        if bias:
            weights[f"{name}.bias"] = zero.expand(out)

    def block(name: str) -> None:  # all zero: ReLU(0 + x) = x, as colours are not negative
        for number in (0, 2, 4):
            conv(f"{name}.conv.{number}")

    def mutable(name: str) -> Tensor:
        weights[name] = weights[name].clone(memory_format=torch.contiguous_format)
        return weights[name]

    def separable(name: str, taps: tuple[float, ...], channels: range) -> None:
        kernel = torch.outer(torch.tensor(taps), torch.tensor(taps))
        weight = mutable(f"{name}.weight")
        for channel in channels:
            weight[channel, channel] = kernel

    encoder = "taesd_encoder"
    conv(f"{encoder}.0", into=3)
    separable(f"{encoder}.0", (0.0, 1.0, 0.0), range(3))
    block(f"{encoder}.1")
    for first in (2, 6, 10):
        conv(f"{encoder}.{first}", bias=False)
        separable(f"{encoder}.{first}", HALVE, range(3))
        for number in range(first + 1, first + 4):
            block(f"{encoder}.{number}")
    conv(f"{encoder}.14", out=4)
    to_latent, shift = mutable(f"{encoder}.14.weight"), mutable(f"{encoder}.14.bias")
    for channel in range(3):  # the fourth latent channel stays 0
        to_latent[channel, channel, 1, 1], shift[channel] = 2.0, -1.0

    decoder = "taesd_decoder"
    conv(f"{decoder}.1", into=4)
    from_latent, shift = mutable(f"{decoder}.1.weight"), mutable(f"{decoder}.1.bias")
    for channel in range(3):
        from_latent[channel, channel, 1, 1], shift[channel] = 0.5, 0.5
    shift[ONE] = 1.0
    for first in (3, 8, 13):
        for number in range(first, first + 3):
            if number != 18:
                block(f"{decoder}.{number}")
    block(f"{decoder}.18")
    for up in (7, 12, 17):
        conv(f"{decoder}.{up}", bias=False)
        separable(f"{decoder}.{up}", SMOOTH, range(4))
        repair = f"{decoder}.{up + 1}.conv"
        _repair_border(*(mutable(f"{repair}.{n}.{k}") for n in (0, 2, 4) for k in KINDS))
    conv(f"{decoder}.19", out=3)
    separable(f"{decoder}.19", (0.0, 1.0, 0.0), range(3))

    weights["vae_scale"] = torch.tensor(LATENT_SCALE)
    weights["vae_shift"] = torch.tensor(0.0)
    return weights


KINDS = ("weight", "bias")


def _repair_border(
    weight0: Tensor, bias0: Tensor, weight2: Tensor, bias2: Tensor, weight4: Tensor, bias4: Tensor
) -> None:
    """Make a residual block divide by what is left of the one: 1, EDGE or CORNER.

    A ReLU network cannot divide, but there are three cases: with c the faded one,
    g = relu(a v + GATE (limit - c)) is 0 above the limit and a v on it.
    """
    at_edge = 1 / EDGE - 1
    at_corner = 1 / CORNER - 1 - at_edge
    excess, fade = 6, 7
    for colour in range(3):
        for hidden, gain, limit in ((colour, at_edge, EDGE), (3 + colour, at_corner, CORNER)):
            weight0[hidden, colour, 1, 1] = gain
            weight0[hidden, ONE, 1, 1] = -GATE
            bias0[hidden] = GATE * limit
            weight4[colour, hidden, 1, 1] = 1.0
        weight4[colour, excess, 1, 1] = -1.0  # what the edge's gate adds in the corner
    weight0[excess, ONE, 1, 1], bias0[excess] = -GATE, GATE * EDGE
    weight0[fade, ONE, 1, 1], bias0[fade] = -1.0, 1.0
    weight4[ONE, fade, 1, 1] = 1.0
    for hidden in range(8):
        weight2[hidden, hidden, 1, 1] = 1.0
    # bias2 and bias4 stay 0
