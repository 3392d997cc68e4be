"""The true size of an image in a LATENT, valid only for the latent it was made for.

The host's nodes keep the key whatever they do to the latent. So the latent itself is stored with
the size and compared: if it has changed, the size is valid only if the image is still in its place.
"""

from dataclasses import dataclass

from torch import Tensor

from ..hypir.placement import KEPT, MOVED, place

SIZE_KEY = "hypir_size"
"""Key in a LATENT: its Picture."""


@dataclass(frozen=True)
class Picture:
    """An image at the top left of a padded latent."""

    size: tuple[int, int] | None
    """(height, width) in pixels; None if a node has moved the image."""
    latent: Tensor
    """(B, C, h, w), the latent it was made for."""


def with_size(samples: dict, latent: Tensor, size: tuple[int, int] | None) -> dict:
    """The LATENT with another latent of the same images, with this true size.

    Without a size, the known placement is kept.
    """
    result = {**samples, "samples": latent}
    if size is not None or is_moved(samples):
        result[SIZE_KEY] = Picture(size, latent)
    else:
        result.pop(SIZE_KEY, None)
    return result


def true_size(samples: dict) -> tuple[int, int] | None:
    """Size of the image in a LATENT, if it is known and the image is still in its place."""
    picture = samples.get(SIZE_KEY)
    return picture.size if picture is not None and _place(samples) == KEPT else None


def is_moved(samples: dict) -> bool:
    """Whether a node has flipped, rotated or shifted the image since its size was stored."""
    picture = samples.get(SIZE_KEY)
    if picture is None:
        return False
    return picture.size is None or _place(samples) == MOVED


def _place(samples: dict) -> str:
    before, now = samples[SIZE_KEY].latent, samples["samples"]
    return KEPT if before is now else place(before, now)
