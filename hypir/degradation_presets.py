"""Degradation recipes: what can happen to an image, and how likely it is.

`training` has the ranges that the authors of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833)
published for x4; the presets are this project's own choices, each described above its record.
degradation.py applies them. Lengths are in pixels of the image at that point of the chain.
"""

from dataclasses import dataclass

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """One pass of blur, resize, noise and JPEG; defaults as published for the first order."""

    blur: float = 1.0
    """Probability of a blur."""
    sinc: float = 0.1
    """Probability that the blur is a sinc filter."""
    kernels: tuple[tuple[str, float], ...] = (
        ("iso", 0.45),
        ("aniso", 0.25),
        ("generalized_iso", 0.12),
        ("generalized_aniso", 0.03),
        ("plateau_iso", 0.12),
        ("plateau_aniso", 0.03),
    )
    """The other kernels and their probabilities."""
    sigma: Range = (0.2, 3.0)
    """Standard deviation of a kernel in pixels."""
    beta_generalized: Range = (0.5, 4.0)
    """Shape of generalized Gaussian kernels."""
    beta_plateau: Range = (1.0, 2.0)
    """Shape of plateau kernels."""
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)
    """Probabilities of enlarging, reducing, keeping the size."""
    factor: Range = (0.15, 1.5)
    """Resize factor: reduction from the first number to 1, enlargement from 1 to the second. In the
    last order it is relative to the size of the result."""
    noise: float = 1.0
    """Probability of noise."""
    gaussian: float = 0.5
    """Probability that the noise is Gaussian, otherwise Poisson."""
    gray: float = 0.4
    """Probability that the noise is the same in all channels."""
    gaussian_sigma: Range = (1.0, 30.0)
    """Standard deviation of Gaussian noise, in 1/255."""
    poisson_scale: Range = (0.05, 3.0)
    """Poisson noise relative to that of 256 photons for white."""
    quality: tuple[int, int] | None = (30, 95)
    """JPEG quality; None for no JPEG."""


@dataclass(frozen=True, kw_only=True)
class Aging:
    """The aging of a print, applied before the last order (its scan)."""

    black: Range
    """Value of faded black."""
    white: Range
    """Value of faded white."""
    cast: Range
    """Loss of blue relative to red; green loses a third of that."""
    saturation: Range
    """Remaining share of the colour."""
    scratches: tuple[int, int]
    """Number of scratches."""
    specks: tuple[int, int]
    """Number of dust specks."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """A degradation recipe."""

    name: str
    orders: tuple[Order, ...]
    """Passes in order; the last one ends at the final size."""
    final_sinc: float
    """Probability of a sinc filter at the end."""
    jpeg_first: float
    """Probability that the last JPEG comes before the final resize and sinc, otherwise after."""
    antialias: bool
    """Whether bilinear and bicubic resizes are antialiased; in the published recipe they are
    not."""
    aging: Aging | None = None


def training() -> Degradation:
    """The training recipe: two orders with the ranges published for Real-ESRGAN x4."""
    second = Order(
        blur=0.8,
        sigma=(0.2, 1.5),
        resize=(0.3, 0.4, 0.3),
        factor=(0.3, 1.2),
        gaussian_sigma=(1.0, 25.0),
        poisson_scale=(0.05, 2.5),
    )
    return Degradation(
        name="training",
        orders=(Order(), second),
        final_sinc=0.8,
        jpeg_first=0.5,
        antialias=False,
    )


def no_degradation() -> Degradation:
    """Only the reduction to the size of the result."""
    nothing = Order(blur=0.0, resize=(0.0, 0.0, 1.0), noise=0.0, quality=None)
    return Degradation(
        name="none", orders=(nothing,), final_sinc=0.0, jpeg_first=0.0, antialias=True
    )


# A good, slightly soft photo, saved once.
LIGHT = Degradation(
    name="light",
    orders=(
        Order(
            blur=0.5,
            sinc=0.0,
            sigma=(0.2, 1.0),
            resize=(0.0, 0.0, 1.0),
            noise=0.5,
            gaussian_sigma=(0.5, 3.0),
            poisson_scale=(0.05, 0.3),
            quality=(80, 95),
        ),
    ),
    final_sinc=0.0,
    jpeg_first=0.0,
    antialias=True,
)

# A phone photo that was resized and saved twice.
MEDIUM = Degradation(
    name="medium",
    orders=(
        Order(
            sigma=(0.2, 1.6),
            factor=(0.5, 1.2),
            gaussian_sigma=(1.0, 10.0),
            poisson_scale=(0.05, 1.0),
            quality=(60, 95),
        ),
        Order(
            blur=0.5,
            sigma=(0.2, 1.0),
            resize=(0.2, 0.4, 0.4),
            factor=(0.6, 1.2),
            noise=0.5,
            gaussian_sigma=(1.0, 6.0),
            poisson_scale=(0.05, 0.6),
            quality=(50, 90),
        ),
    ),
    final_sinc=0.3,
    jpeg_first=0.5,
    antialias=True,
)

# The worse half of the published ranges, in both orders.
HEAVY = Degradation(
    name="heavy",
    orders=(
        Order(
            sigma=(1.2, 3.0),
            resize=(0.1, 0.9, 0.0),
            factor=(0.2, 1.5),
            gaussian_sigma=(10.0, 30.0),
            poisson_scale=(1.0, 3.0),
            quality=(30, 60),
        ),
        Order(
            sigma=(0.5, 1.5),
            resize=(0.2, 0.6, 0.2),
            factor=(0.4, 1.2),
            gaussian_sigma=(5.0, 25.0),
            poisson_scale=(0.5, 2.5),
            quality=(30, 60),
        ),
    ),
    final_sinc=0.8,
    jpeg_first=0.5,
    antialias=False,
)

# A soft, grainy, faded print with scratches and dust, then scanned.
OLD_PHOTO = Degradation(
    name="old_photo",
    orders=(
        Order(
            sinc=0.0,
            sigma=(0.8, 2.2),
            resize=(0.0, 0.7, 0.3),
            factor=(0.5, 1.0),
            gaussian=0.8,
            gray=0.8,
            gaussian_sigma=(6.0, 20.0),
            poisson_scale=(0.5, 2.0),
            quality=None,
        ),
        Order(
            blur=0.6,
            sinc=0.0,
            sigma=(0.3, 0.9),
            resize=(0.0, 0.3, 0.7),
            factor=(0.7, 1.0),
            gaussian_sigma=(0.5, 4.0),
            poisson_scale=(0.05, 0.4),
            quality=(70, 92),
        ),
    ),
    final_sinc=0.0,
    jpeg_first=0.0,
    antialias=True,
    aging=Aging(
        black=(0.06, 0.22),
        white=(0.75, 0.95),
        cast=(0.02, 0.3),
        saturation=(0.05, 0.7),
        scratches=(2, 9),
        specks=(15, 70),
    ),
)

# A video frame that was reduced, compressed to colour blocks, and enlarged again.
WEB_VIDEO = Degradation(
    name="web_video",
    orders=(
        Order(
            blur=0.8,
            sigma=(0.3, 1.2),
            resize=(0.0, 0.9, 0.1),
            factor=(0.5, 1.0),
            noise=0.6,
            gaussian_sigma=(1.0, 6.0),
            poisson_scale=(0.05, 0.6),
            quality=(40, 75),
        ),
        Order(
            blur=0.3,
            sigma=(0.2, 0.8),
            resize=(0.0, 0.7, 0.3),
            factor=(0.5, 1.0),
            noise=0.0,
            quality=(12, 35),
        ),
    ),
    final_sinc=0.4,
    jpeg_first=0.7,
    antialias=True,
)

PRESETS = {recipe.name: recipe for recipe in (LIGHT, MEDIUM, HEAVY, OLD_PHOTO, WEB_VIDEO)}
