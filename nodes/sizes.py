"""The true size of a picture in a LATENT, which belongs to the latent that it was made for.

The host's nodes carry the key along whatever they do to the latent. So the latent itself is kept
beside the size, and compared: where it is another one, the size counts only if the picture still
lies where it lay.
"""

from dataclasses import dataclass

from torch import Tensor

from ..hypir.placement import KEPT, MOVED, place

SIZE_KEY = "hypir_size"
"""Key of a LATENT: the Picture in it."""


@dataclass(frozen=True)
class Picture:
    """A picture that lies top left in a padded latent."""

    size: tuple[int, int] | None
    """(height, width) in pixels; None: it lies elsewhere, a node has moved it."""
    latent: Tensor
    """(B, C, h, w), the one it was made for."""


def with_size(samples: dict, latent: Tensor, size: tuple[int, int] | None) -> dict:
    """The LATENT with another latent of the same pictures in it, of this true size.

    Without a size, what is known of its place stays known.
    """
    result = {**samples, "samples": latent}
    if size is not None or is_moved(samples):
        result[SIZE_KEY] = Picture(size, latent)
    else:
        result.pop(SIZE_KEY, None)
    return result


def true_size(samples: dict) -> tuple[int, int] | None:
    """Size of the picture in a LATENT, if it is known and the picture lies where it lay."""
    picture = samples.get(SIZE_KEY)
    return picture.size if picture is not None and _place(samples) == KEPT else None


def is_moved(samples: dict) -> bool:
    """Whether a node has flipped, turned or shifted the picture since its size was known."""
    picture = samples.get(SIZE_KEY)
    if picture is None:
        return False
    return picture.size is None or _place(samples) == MOVED


def _place(samples: dict) -> str:
    before, now = samples[SIZE_KEY].latent, samples["samples"]
    return KEPT if before is now else place(before, now)
