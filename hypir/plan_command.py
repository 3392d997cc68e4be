"""`python -m hypir plan`: what a restoration takes, without ComfyUI and without weights."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .plan import (
    AUTOENCODER,
    GIB,
    TINY_AUTOENCODER,
    describe_limits,
    describe_size,
    describe_stages,
    estimates,
    plan_stages,
)
from .priors import PRIORS
from .tile_picture import draw_tiles

SIZE = re.compile(r"(\d+)x(\d+)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("source", help="a photo, or a size in pixels: 1024x768")
    parser.add_argument("--scale", type=float, default=1.0, help="enlargement (default 1)")
    parser.add_argument("--prior", choices=PRIORS, default="sd2", help="base model (default sd2)")
    parser.add_argument(
        "--memory", type=float, help="memory of the device in GiB (default: no limit)"
    )
    parser.add_argument(
        "--bits", type=int, choices=(16, 32), default=16, help="precision (default 16)"
    )
    parser.add_argument("--taesd", action="store_true", help="count a TAESD in place of the VAE")
    parser.add_argument("--tiles", type=Path, help="draw the tiles of the three stages into a PNG")


def run_plan(options: argparse.Namespace, read_photo: Callable[[Path], np.ndarray]) -> str:
    """The report for these options; draws the tiles if asked.

    Args:
        options: those of add_options.
        read_photo: gives the colours (H, W, 3) of a file, float32 in [0, 1].

    Raises:
        ValueError: if the source or a number cannot be used.
        OSError: if the photo cannot be read or the drawing cannot be written.
    """
    if not 0 < options.scale < float("inf"):
        raise ValueError(f"--scale must be a finite number above 0, got {options.scale:g}")
    if options.memory is not None and not options.memory > 0:
        raise ValueError(f"--memory must be above 0 GiB, got {options.memory:g}")
    (height, width), image = _source(options.source, read_photo)
    height, width = (max(1, round(side * options.scale)) for side in (height, width))
    prior = PRIORS[options.prior]
    needed = estimates(prior, options.bits // 8)
    total = float("inf") if options.memory is None else options.memory * GIB
    autoencoder = AUTOENCODER
    if options.taesd:
        autoencoder, needed = TINY_AUTOENCODER, {"step": needed["step"]}
    stages = plan_stages(height, width, prior.tile, needed, total, autoencoder)
    lines = [
        f"{'model':22}{prior.title}, {options.bits} bit",
        f"{'result':22}{describe_size(height, width)}",
        *describe_stages(stages),
    ]
    limits = describe_limits(height, width, prior.tile, needed, total)
    lines += limits if options.memory is not None else limits[1:]
    if options.tiles is not None:
        drawn = draw_tiles(stages, (height, width), image)
        sheet = torch.cat(list(drawn), dim=1).mul(255).round().byte().numpy()
        Image.fromarray(sheet).save(options.tiles, format="PNG")
        lines.append(f"wrote {options.tiles}")
    return "\n".join(lines)


def _source(
    source: str, read_photo: Callable[[Path], np.ndarray]
) -> tuple[tuple[int, int], Tensor | None]:
    """(height, width), and the photo if it is one."""
    size = SIZE.fullmatch(source)
    if size is None:
        if not Path(source).is_file():
            raise ValueError(
                f"'{source}' is neither a photo nor a size; give a file, or a size such as 1024x768"
            )
        photo = torch.from_numpy(read_photo(Path(source)))
        return (photo.shape[0], photo.shape[1]), photo
    width, height = int(size[1]), int(size[2])
    if not width or not height:
        raise ValueError(f"a size must be at least 1x1 px, got {source}")
    return (height, width), None
