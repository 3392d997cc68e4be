"""A TAESD-layout autoencoder that starts as a transform codec instead of from noise.

The encoder is the Karhunen-Loeve transform (KLT, principal components) of 8x8 px blocks: no linear
code of as few values keeps more of a block. Its strided layers sort pixels into channels and its
blocks are the identity; later training is free to change all of it. Its latents have about zero
mean and unit deviation. The decoder begins as the enlarged mean colours and learns the rest.

The covariance is that of a first-order Markov field, exp(-distance / length), times one of colours:
the textbook's model of photographs (Jain, Fundamentals of Digital Image Processing, 1989), so that
it needs no data.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 8
"""Pixels of a side that one latent stands for."""
CORRELATION_LENGTH = 12.0
"""Of the Markov field, in pixels."""
VARIANCES = (0.17, 0.012, 0.006)
"""Of pixels in [0, 1] along the grey axis and the two of colour."""
AXES = ((1, 1, 1), (1, 0, -1), (1, -2, 1))
"""In RGB: the KLT of colours of photographs (Ohta, Kanade, Sakai 1980)."""
COLOR_ROOM = 1.8
"""Factor on the deviations of colours: they vary less within a picture than between pictures."""
KEPT = 32
"""Components that reach the encoder's last blocks; the latent takes the first of them."""
OFFSET = 4.0
"""Deviations by which components are lifted, so that the blocks' ReLU lets them pass."""


def principal_components(count: int) -> tuple[Tensor, Tensor]:
    """The first components of an 8x8 px block.

    Returns:
        Rows (count, 8, 8, 3) of unit norm, indexed by row, column and colour, by falling deviation;
        and the deviations (count,), those of colours times COLOR_ROOM. The same on every machine.
    """
    place = torch.arange(BLOCK, dtype=torch.float64)
    # A little longer upwards, or pairs of equal deviation would mix as the library pleases.
    y, x = torch.meshgrid(1.001 * place, place, indexing="ij")
    points = torch.stack([y.flatten(), x.flatten()], dim=1)
    space = torch.exp(-torch.cdist(points, points) / CORRELATION_LENGTH)
    axes = torch.tensor(AXES, dtype=torch.float64)
    axes = axes / axes.norm(dim=1, keepdim=True)
    colors = axes.T @ torch.diag(torch.tensor(VARIANCES, dtype=torch.float64)) @ axes
    values, vectors = torch.linalg.eigh(torch.kron(space, colors))
    rows = vectors.T.flip(0)[:count]
    # Grey must count up, for ReLU; where the mean is zero anything that is fixed will do.
    anything = 10 + torch.cos(torch.arange(rows.shape[1], dtype=torch.float64) ** 1.5)
    rows = rows * (rows @ anything).sign()[:, None]
    deviations = values.flip(0)[:count].clamp(min=0).sqrt()
    rows = rows.reshape(count, BLOCK, BLOCK, 3)
    is_color = (rows @ axes[0]).flatten(1).norm(dim=1) < 0.5
    deviations = torch.where(is_color, COLOR_ROOM * deviations, deviations)
    return rows.float(), deviations.float()


class Transform(nn.Module):
    """An encoder that still is a transform of blocks, in closed form: a thousandth of the work."""

    def __init__(self, filters: Tensor, shift: Tensor):
        """`filters` (C, 3, 8, 8) of pixels in [0, 1]; `shift` (C,): latents of black."""
        super().__init__()
        self.register_buffer("filters", filters)
        self.register_buffer("shift", shift)

    def forward(self, pixels: Tensor, seeds: list[int] | None = None) -> Tensor:
        """Latents of pixels in [-1, 1]; `seeds` are for posteriors, of which there is none."""
        filters, shift = self.filters.to(pixels), self.shift.to(pixels)[:, None, None]
        components = F.conv2d((pixels + 1) / 2, filters, stride=BLOCK)
        return F.relu(components + OFFSET) - OFFSET + shift


@torch.no_grad()
def closed_form(vae: nn.Module) -> Transform | None:
    """The transform that an AutoencoderTiny's encoder computes; None if it computes another thing.

    Read off from the answers to single pixels, and checked on a picture.
    """
    weight = vae.encoder.layers[0].weight
    found = Transform(*_read_off(vae.encoder, BLOCK, weight))
    picture = _picture().to(weight)
    same = torch.allclose(vae.encoder(picture).float(), found(picture.float()), atol=0.02)
    return found if same else None


HEAD = 7
"""Layers of an AutoencoderTiny's encoder that come before its blocks at a fourth of the size."""


class Head(nn.Module):
    """The first layers of an encoder that still sort pixels into channels, in closed form.

    They look at every pixel of a picture that was enlarged, and do nothing: nine tenths of the
    encoder's work.
    """

    def __init__(self, filters: Tensor):
        """`filters` (C, 3, 4, 4) of pixels in [0, 1]."""
        super().__init__()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """What the blocks at a fourth of the size are given, of pixels in [-1, 1]."""
        return F.conv2d((pixels + 1) / 2, self.filters.to(pixels), stride=BLOCK // 2)


@torch.no_grad()
def closed_form_head(encoder: nn.Module) -> Head | None:
    """What the first HEAD layers of an AutoencoderTiny's encoder compute, if they only sort."""
    weight = encoder.layers[0].weight

    def layers(pixels: Tensor) -> Tensor:
        return encoder.layers[:HEAD]((pixels + 1) / 2)

    filters, black = _read_off(layers, BLOCK // 2, weight)
    found = Head(filters)
    picture = _picture().to(weight)
    same = torch.allclose(layers(picture).float(), found(picture.float()), atol=1e-4)
    return found if same and not black.any() else None


def _read_off(function, block: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Filters (C, 3, block, block) of pixels in [0, 1], and the answer to black (C,).

    From answers to single pixels within a block that has neighbours, which must not count.
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
    """One to check on, in [-1, 1]."""
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return F.avg_pool2d(noise, 5, 1, 2)


@torch.no_grad()
def prepare_to_learn(encoder: nn.Module) -> None:
    """Make an encoder that is a transform ready for training; what it computes stays the same.

    Channels of the head that no pixel was sorted into are set to nothing, so that the head stays in
    closed form. The first layer of each later block is moved so that grey lies at its units'
    threshold: fed with values lifted by OFFSET, or all above zero, most units would never answer,
    or always.
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
    """Set the weights of diffusers' AutoencoderTiny (64 wide) so; others are left as they are."""
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
    smooth = torch.tensor([0.25, 0.5, 0.25])  # after the nearest enlargement: bilinear
    for conv in decoder[1:-1]:
        conv.weight[:3] = 0.0
        conv.weight[range(3), range(3)] = smooth[:, None] * smooth[None]
    decoder[-1].weight.zero_()
    _identity(decoder[-1], 3)
    decoder[-1].bias.zero_()


def _identity(conv: nn.Conv2d, count: int) -> None:
    """The first channels pass as they are."""
    conv.weight[:count] = 0.0
    conv.weight[range(count), range(count), 1, 1] = 1.0


def _gather(conv: nn.Conv2d, matrix: Tensor) -> None:
    """A strided layer that multiplies the four places of a 2x2 square by (out, 4, in)."""
    out, _, channels = matrix.shape
    conv.weight[:out] = 0.0
    squares = matrix.reshape(out, 2, 2, channels).permute(0, 3, 1, 2)
    conv.weight[:out, :channels, 1:, 1:] = squares


def _one_hot(channels: int) -> Tensor:
    """Every place's channels after one another."""
    return torch.eye(4 * channels).reshape(4 * channels, 4, channels)


def _as_quarters(rows: Tensor) -> Tensor:
    """(count, 8, 8, 3) to (count, 4, 48), in the order in which two _one_hot layers sort pixels."""
    count = len(rows)
    split = rows.reshape(count, 2, 2, 2, 2, 2, 2, 3)  # row: y2 y1 y0, column: x2 x1 x0
    return split.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(count, 4, 48)
