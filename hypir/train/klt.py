"""An autoencoder in TAESD layout that starts as a transform codec instead of random weights.

The encoder is the Karhunen-Loeve transform (KLT, principal components) of 8x8 px blocks: no linear
code with the same number of values keeps more of a block. Its strided layers rearrange pixels into
channels and its blocks are the identity; later training can change all of it. Its latents have
about zero mean and unit deviation. The decoder starts as the enlarged mean colours and learns the
rest.

The covariance is that of a first-order Markov field, exp(-distance / length), times a covariance of
colours: the textbook model of photographs (Jain, Fundamentals of Digital Image Processing, 1989),
so no data is needed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 8
"""Side in pixels of the block of one latent."""
CORRELATION_LENGTH = 12.0
"""Correlation length of the Markov field, in pixels."""
VARIANCES = (0.17, 0.012, 0.006)
"""Standard deviations of pixels in [0, 1] along the grey axis and the two colour axes."""
AXES = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""The axes in RGB: the KLT of colours in photographs (Ohta, Kanade, Sakai 1980)."""
COLOR_ROOM = 1.8
"""Factor on the deviations of colours, which vary less within an image than between images."""
KEPT = 32
"""Components that reach the encoder's last blocks; the latent uses the first of them."""
OFFSET = 4.0
"""Offset of components in standard deviations, so that they pass the blocks' ReLU."""


def principal_components(count: int) -> tuple[Tensor, Tensor]:
    """The first components of an 8x8 px block.

    Returns:
        Components (count, 8, 8, 3) of unit norm, indexed by row, column and colour, in order of
        decreasing deviation; and the deviations (count,), those of colours times COLOR_ROOM. They
        are the same on every machine.
    """
    place = torch.arange(BLOCK, dtype=torch.float64)
    # Slightly longer vertically: pairs of equal deviation would mix in an arbitrary way.
    y, x = torch.meshgrid(1.001 * place, place, indexing="ij")
    points = torch.stack([y.flatten(), x.flatten()], dim=1)
    space = torch.exp(-torch.cdist(points, points) / CORRELATION_LENGTH)
    axes = torch.tensor(AXES, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    colors = axes.T @ torch.diag(torch.tensor(VARIANCES, dtype=torch.float64)) @ axes
    values, vectors = torch.linalg.eigh(torch.kron(space, colors))
    rows = vectors.T.flip(0)[:count]
    # Fix the sign: grey must be positive for ReLU; where the mean is zero, any fixed rule works.
    anything = 10 + torch.cos(torch.arange(rows.shape[1], dtype=torch.float64) ** 1.5)
    rows = rows * (rows @ anything).sign()[:, None]
    deviations = values.flip(0)[:count].clamp(min=0).sqrt()
    rows = rows.reshape(count, BLOCK, BLOCK, 3)
    is_color = (rows @ axes[0]).flatten(1).norm(dim=1) < 0.5
    deviations = torch.where(is_color, COLOR_ROOM * deviations, deviations)
    return rows.float(), deviations.float()


class Transform(nn.Module):
    """An encoder that is still a block transform, in closed form: a thousandth of the cost."""

    def __init__(self, filters: Tensor, shift: Tensor):
        """`filters` (C, 3, 8, 8) for pixels in [0, 1]; `shift` (C,): the latent of black."""
        super().__init__()
        self.register_buffer("filters", filters)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor, seeds: list[int] | None = None) -> Tensor:
        """Latents of pixels in [-1, 1]; `seeds` have no effect, because there is no posterior."""
        filters, shift = self.filters.to(pixels), self.shift.to(pixels)[:, None, None]
        components = F.conv2d((pixels + 1) / 2, filters, stride=BLOCK)
        return F.relu(components + OFFSET) - OFFSET + shift


@torch.no_grad()
def closed_form(vae: nn.Module) -> Transform | None:
    """The block transform that an AutoencoderTiny's encoder computes; None if it is not one.

    It is read from the responses to single pixels and checked on an image.
    """
    weight = vae.encoder.layers[0].weight
    found = Transform(*_read_off(vae.encoder, BLOCK, weight))
    if weight.is_meta:
        return found  # in a plan nothing can be checked
    picture = _picture().to(weight)
    same = torch.allclose(vae.encoder(picture).float(), found(picture.float()), atol=0.02)
    return found if same else None


HEAD = 7
"""Number of layers of an AutoencoderTiny's encoder before its blocks at 1/4 size."""


class Head(nn.Module):
    """The first layers of an encoder that still rearrange pixels into channels, in closed form.

    They process every pixel of an enlarged image only to rearrange it: nine tenths of the
    encoder's computation.
    """

    def __init__(self, filters: Tensor):
        """`filters` (C, 3, 4, 4) for pixels in [0, 1]."""
        super().__init__()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """The input of the blocks at 1/4 size, for pixels in [-1, 1]."""
        return F.conv2d((pixels + 1) / 2, self.filters.to(pixels), stride=BLOCK // 2)


@torch.no_grad()
def closed_form_head(encoder: nn.Module) -> Head | None:
    """The first HEAD layers of an AutoencoderTiny's encoder, if they only rearrange pixels."""
    weight = encoder.layers[0].weight

    def layers(pixels: Tensor) -> Tensor:
        return encoder.layers[:HEAD]((pixels + 1) / 2)

    filters, black = _read_off(layers, BLOCK // 2, weight)
    found = Head(filters)
    if weight.is_meta:
        return found
    picture = _picture().to(weight)
    same = torch.allclose(layers(picture).float(), found(picture.float()), atol=1e-4)
    return found if same and not black.any() else None


def _read_off(function, block: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (C, 3, block, block) for pixels in [0, 1], and the response to black (C,).

    Measured with single pixels in a block that has neighbours; these must not matter.
    """
    side = 3 * block
    probes = torch.full((1 + 3 * block**2, 3, side, side), -1.0)
    index = 1
    for color in range(3):
        for y in range(block, 2 * block):
            for x in range(block, 2 * block):
                probes[index, color, y, x] = 1.0
                index += 1
    answers = function(probes.to(like)).float()[:, :, 1, 1]
    return (answers[1:] - answers[0]).T.reshape(-1, 3, block, block), answers[0]


def _picture() -> Tensor:
    """An image for the check, in [-1, 1]."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.avg_pool2d(noise, 5, 1, 2)


@torch.no_grad()
def prepare_to_learn(encoder: nn.Module) -> None:
    """Prepare an encoder that is a block transform for training, without changing its output.

    Unused channels of the head are set to zero, so that the head stays in closed form. The first
    layer of each later block is shifted so that grey is at the threshold of its units. With inputs
    offset by OFFSET, or all positive, most units would otherwise be always off or always on.
    """
    layers = encoder.layers
    layers[2].weight[12:] = 0.0
    layers[6].weight[48:] = 0.0
    x = torch.full((1, 3, 64, 64), 0.5).to(layers[0].weight)
    for number, layer in enumerate(layers):
        if number >= HEAD and hasattr(layer, "conv"):
            first = layer.conv[0]
            first.bias.sub_(first(x)[0, :, 4, 4])
        x = layer(x)


@torch.no_grad()
def start_as_transform(vae: nn.Module) -> None:
    """Initialise diffusers' AutoencoderTiny (width 64) as a transform codec; keep other weights."""
    latent = vae.config.latent_channels
    rows, deviations = principal_components(KEPT)
    encoder = [m for m in vae.encoder.layers if isinstance(m, nn.Conv2d)]
    _identity(encoder[0], 3)
    _gather(encoder[1], _one_hot(3))
    _gather(encoder[2], _one_hot(12))
    _gather(encoder[3], _as_quarters(rows / deviations[:, None, None, None]))
    lift = vae.encoder.layers[11].conv[-1].bias
    lift[:KEPT] = OFFSET
    last = encoder[4]
    last.weight.zero_()
    _identity(last, latent)
    grey = rows.sum(dim=(1, 2, 3)) / 2 / deviations
    last.bias.copy_(-(OFFSET + grey[:latent]))

    decoder = [m for m in vae.decoder.layers if isinstance(m, nn.Conv2d)]
    first = decoder[0]
    means = rows.mean(dim=(1, 2)) * deviations[:, None]  # (component, colour)
    lines = torch.cat([means[:latent].T, torch.eye(latent), -torch.eye(latent)])
    first.weight[: len(lines)] = 0.0
    first.weight[: len(lines), :, 1, 1] = lines
    first.bias[:3] = 0.5
    smooth = torch.tensor([0.25, 0.5, 0.25])  # after nearest-neighbour enlargement: bilinear
    for conv in decoder[1:-1]:
        conv.weight[:3] = 0.0
        conv.weight[range(3), range(3)] = smooth[:, None] * smooth[None]
    decoder[-1].weight.zero_()
    _identity(decoder[-1], 3)
    decoder[-1].bias.zero_()


def _identity(conv: nn.Conv2d, count: int) -> None:
    """A layer that passes the first channels unchanged."""
    conv.weight[:count] = 0.0
    conv.weight[range(count), range(count), 1, 1] = 1.0


def _gather(conv: nn.Conv2d, matrix: Tensor) -> None:
    """A strided layer that multiplies the four places of a 2x2 square by (out, 4, in)."""
    out, _, channels = matrix.shape
    conv.weight[:out] = 0.0
    squares = matrix.reshape(out, 2, 2, channels).permute(0, 3, 1, 2)
    conv.weight[:out, :channels, 1:, 1:] = squares


def _one_hot(channels: int) -> Tensor:
    """Concatenate the channels of all places."""
    return torch.eye(4 * channels).reshape(4 * channels, 4, channels)


def _as_quarters(rows: Tensor) -> Tensor:
    """(count, 8, 8, 3) to (count, 4, 48), in the pixel order of two _one_hot layers."""
    count = len(rows)
    split = rows.reshape(count, 2, 2, 2, 2, 2, 2, 3)  # row: y2 y1 y0, column: x2 x1 x0
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(count, 4, 48)
