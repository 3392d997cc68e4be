"""Dead leaves: synthetic images for training restoration networks.

Random shapes that occlude each other. Their sizes follow a power law (Lee, Mumford and Huang 2001:
density r^-3 is scale invariant, like photographs). They have textures, gradients, soft shadows, 1/f
noise, and there are rows of strokes that resemble writing. The colour of a shape is related to that
of the shape it is painted on, like the parts of an object. With independent colours, small shapes
would differ as much as large ones, and the images would have 1.5 times the contrast of photographs.
Networks trained on such images come close to those trained on photographs (Achddou, Gousseau and
Ladjal 2021). An image is determined by (seed, number).

A canvas is painted at twice its size and averaged down, which smooths the edges.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SUPERSAMPLING = 2
POWER = 3.0  # exponent of the density of sizes
TEXTURES = ("rough", "smooth", "stripes", "checks")
"""Textures: noise with two exponents, and waves in one or two directions."""
STRONG = 0.2
"""Contrast of a texture on its own."""
TEXTURE_SHARES = (0.45, 0.2, 0.2, 0.15)
MOST_KINSHIP = 4.0
"""A shape's share of independent colour is u^k, u in [0, 1]; per canvas, k is from 0 to this."""
SMALLEST_PX, LARGEST_SHARE = 2.0, 0.4  # smallest and largest radius (share of the canvas side)


class LeafCanvas:
    """A painted canvas and its crops."""

    CROPS = 12
    """Crops per canvas; the side of the canvas is 3 crops."""

    def __init__(self, seed: int, number: int, crop: int, texture: str = ""):
        """`texture`: one of TEXTURES for all shapes, at high contrast; "" = mixed."""
        self.number = number
        self._crop = crop
        rng = np.random.default_rng([seed, number])
        self._canvas = paint(rng, 3 * crop, texture)
        self._places = rng.integers(0, 2 * crop + 1, (self.CROPS, 2))

    def crop(self, place: int) -> np.ndarray:
        """Crop `place` of CROPS, (crop, crop, 3) uint8."""
        y, x = self._places[place]
        return self._canvas[y : y + self._crop, x : x + self._crop]


def paint(rng: np.random.Generator, side: int, texture: str = "") -> np.ndarray:
    """A square image (side, side, 3) uint8."""
    big = side * SUPERSAMPLING
    order, below = _arrange(rng, big)
    picture = _colour(rng, order, below, big, texture)
    picture *= _shadows(rng, order)[..., None]
    picture *= _light(rng, big)[..., None]
    picture = picture.reshape(side, SUPERSAMPLING, side, SUPERSAMPLING, 3).mean(axis=(1, 3))
    return _develop(rng, picture)


def _arrange(rng: np.random.Generator, side: int) -> tuple[np.ndarray, list[int]]:
    """Index of the visible shape at every pixel (0 = background), and of the shape below each."""
    sheet = Image.new("I", (side, side), 0)
    draw = ImageDraw.Draw(sheet)
    least = SMALLEST_PX * SUPERSAMPLING * math.exp(rng.uniform(0, 1.8))
    most = side * LARGEST_SHARE * rng.uniform(0.3, 1.0)
    count = int(min(3500, 2.5 * side**2 / (2 * math.pi * least**2 * math.log(most / least))))
    # Inverse of the cumulative distribution of the density r^-POWER between least and most.
    u = rng.random(count)
    a = 1 - POWER
    radii = (least**a + u * (most**a - least**a)) ** (1 / a)
    # Partly sorted by size, largest first, so that not all small shapes are hidden.
    radii = radii[np.argsort(-radii * np.exp(rng.normal(0, rng.uniform(0.3, 1.5), count)))]
    centres = rng.uniform(-0.1 * side, 1.1 * side, (count, 2))
    kinds = rng.choice(5, count, p=rng.dirichlet((2, 1.5, 1.5, 1.5, 1)))
    below = [0]
    for i in range(count):
        x, y = (int(c) for c in centres[i].clip(0, side - 1))
        below.append(sheet.getpixel((x, y)))
        _shape(draw, rng, int(kinds[i]), centres[i], float(radii[i]), i + 1)
    if rng.random() < 0.35:
        below += range(len(below), _writing(draw, rng, side, count) + 1)  # unrelated to others
    return np.asarray(sheet), below


def _shape(draw, rng, kind: int, centre: np.ndarray, radius: float, number: int) -> None:
    x, y = centre
    if kind == 0:  # ellipse along the axes
        a, b = radius, radius * rng.uniform(0.4, 1.0)
        draw.ellipse((x - a, y - b, x + a, y + b), fill=number)
        return
    angle = rng.uniform(0, 2 * math.pi)
    if kind == 1:  # rectangle, also long ones
        share = rng.uniform(0.08, 1.0)
        corners = np.array([(-1, -share), (1, -share), (1, share), (-1, share)])
    elif kind == 2:  # triangle to heptagon
        corners = _ring(np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 8))))
    elif kind == 3:  # blob
        turn = np.linspace(0, 2 * math.pi, 24, endpoint=False)
        bumps = sum(
            rng.normal(0, 0.25 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in (1, 2, 3, 5)
        )
        corners = _ring(turn) * (1 + bumps)[:, None]
    else:  # blade: two arcs
        bend = np.linspace(-1, 1, 9)
        width = rng.uniform(0.08, 0.5) * (1 - bend**2)
        curve = rng.uniform(-0.4, 0.4) * bend**2
        upper, lower = np.stack([bend, curve + width], 1), np.stack([bend, curve - width], 1)
        corners = np.concatenate([upper, lower[::-1]])
    turned = corners @ _rotation(angle) * radius + centre
    draw.polygon([tuple(p) for p in turned.tolist()], fill=number)


def _writing(draw, rng, side: int, count: int) -> int:
    """Paint rows of glyph-like strokes, one colour per row; returns the new number of shapes."""
    for _ in range(rng.integers(1, 4)):
        count += 1
        height = side * math.exp(rng.uniform(math.log(0.02), math.log(0.12)))
        width = max(1, round(height * rng.uniform(0.06, 0.2)))
        start, turn = rng.uniform(0, 0.8 * side, 2), _rotation(rng.normal(0, 0.3))
        for glyph in range(rng.integers(4, 20)):
            left = np.array([glyph * height * 0.75, 0.0])
            for _ in range(rng.integers(2, 5)):
                # Stroke ends on a 3 x 3 grid, as in letters.
                ends = rng.integers(0, 3, (2, 2)) / 2 * np.array([0.55, 1.0]) * height
                points = (ends + left) @ turn + start
                if rng.random() < 0.3:
                    (x0, y0), (x1, y1) = points.min(0), points.max(0) + 1
                    bow = rng.uniform(0, 360)
                    draw.arc((x0, y0, x1, y1), bow, bow + rng.uniform(90, 300), count, width)
                else:
                    draw.line([tuple(p) for p in points.tolist()], fill=count, width=width)
    return count


def _colour(rng, order: np.ndarray, below: list[int], side: int, only: str) -> np.ndarray:
    """Give every shape a colour, a gradient and a texture; returns (side, side, 3).

    `below`: for every shape, the shape at its centre when it was painted; its colour is related.
    """
    shapes = len(below)
    palette = _palette(rng)
    base = palette[rng.integers(0, len(palette), shapes)] + rng.normal(0, 0.04, (shapes, 3))
    own = rng.random(shapes) ** rng.uniform(0, MOST_KINSHIP)
    for i in range(1, shapes):
        base[i] = base[below[i]] + own[i] * (base[i] - base[below[i]])
    across = rng.normal(0, 0.25, (shapes, 2)).astype(np.float32)
    strength = (0.35 * rng.random(shapes) ** 3 * (rng.random(shapes) < 0.7)).astype(np.float32)
    kind = rng.choice(len(TEXTURES), shapes, p=TEXTURE_SHARES)
    if only:
        kind[:], strength[:] = TEXTURES.index(only), STRONG
    period = np.exp(rng.uniform(math.log(3), math.log(40), shapes)) * SUPERSAMPLING
    angle = rng.uniform(0, math.pi, shapes)
    wave = (np.stack([np.sin(angle), np.cos(angle)], 1) * 2 * math.pi / period[:, None]).astype(
        np.float32
    )
    y, x = np.meshgrid(*[np.arange(side, dtype=np.float32)] * 2, indexing="ij")
    fields = [_noise(rng, side, exponent) for exponent in rng.uniform(0.4, 2.0, 2)]
    phase = wave[order, 0] * y + wave[order, 1] * x + 2 * fields[0] * (rng.random() < 0.5)
    stripes = np.sin(phase)
    turned = np.sin(wave[order, 1] * y - wave[order, 0] * x)
    which = kind[order]
    texture = np.select(
        [which == 0, which == 1, which == 2], [fields[0], fields[1], stripes], stripes * turned
    )
    tint = (1 + rng.normal(0, 0.25, (shapes, 3))).astype(np.float32)
    shade = across[order, 0] * (y / side - 0.5) + across[order, 1] * (x / side - 0.5)
    picture = base.astype(np.float32)[order] + shade[..., None]
    picture += (strength[order] * texture)[..., None] * tint[order]
    return picture.clip(0.0, 1.0)


def _palette(rng: np.random.Generator) -> np.ndarray:
    """A palette: few hues, mostly muted, all brightnesses; one canvas in six is vivid."""
    count = int(rng.integers(5, 40))
    hues = rng.uniform(0, 1, rng.integers(1, 6))
    hue = (rng.choice(hues, count) + rng.normal(0, 0.05, count)) % 1
    saturation = rng.beta(1.2, rng.uniform(0.4, 4.0), count)
    value = rng.beta(1.1, 1.1, count)
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1  # of HSV
    return value[:, None] * (1 - saturation[:, None] * (1 - wheel.clip(0, 1)))


def _noise(rng: np.random.Generator, side: int, exponent: float) -> np.ndarray:
    """Periodic noise with amplitude 1/f^exponent and unit deviation; (side, side) float32.

    Computed at half size and enlarged 2x, because the canvas is averaged down by two anyway.
    """
    half = side // 2
    f = np.hypot(np.fft.fftfreq(half)[:, None], np.fft.rfftfreq(half)[None]).astype(np.float32)
    f[0, 0] = np.inf
    white = rng.standard_normal((half, half), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) / f**exponent, (half, half)).astype(np.float32)
    return (field / field.std()).repeat(2, 0).repeat(2, 1)


def _shadows(rng: np.random.Generator, order: np.ndarray) -> np.ndarray:
    """Soft shadows as a factor in (0, 1]: shapes darken those below on one side."""
    if rng.random() < 0.3:
        return np.ones(order.shape, np.float32)
    reach = int(rng.integers(2, 9)) * SUPERSAMPLING
    dy, dx = (rng.choice((-1, 1), 2) * rng.integers(0, reach + 1, 2)).tolist()
    cast = np.roll(order, (dy, dx), (0, 1)) > order
    soft = Image.fromarray(cast.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(reach / 2))
    return 1 - np.float32(rng.uniform(0.1, 0.6) / 255) * np.asarray(soft, np.float32)


def _light(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth lighting over the canvas, mean near 1."""
    small = Image.fromarray(rng.normal(1.0, 0.2, (4, 4)).clip(0.4, 1.6).astype(np.float32))
    return np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _develop(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Apply a tone curve, some grain, and sometimes defocus; returns uint8."""
    picture = picture.clip(0, 1) ** np.float32(math.exp(rng.normal(0, 0.25)))
    side = len(picture)
    if rng.random() < 0.3:
        grain = _noise(rng, side + side % 2, rng.uniform(0.0, 0.8))[:side, :side]
        picture = picture + np.float32(rng.uniform(0.002, 0.02)) * grain[..., None]
    result = Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))
    if rng.random() < 0.2:
        result = result.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.5)))
    return np.asarray(result)


def _ring(angles: np.ndarray) -> np.ndarray:
    """Points of the unit circle, (n, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _rotation(angle: float) -> np.ndarray:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([(c, s), (-s, c)])
