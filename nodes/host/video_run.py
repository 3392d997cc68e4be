"""A video through a function of images, slice by slice, into a file."""

import logging
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ...hypir.image import check_image
from .memory import check_cancelled, part_of, show_text
from .video import Clip, Frame, Writer

log = logging.getLogger(__name__)

PART_PREFIX = "video/HYPIR_part"
"""Where the finished part of a run that ended early is saved, in the output folder."""


def restore_clip(video, restore: Callable[[Tensor], Tensor], scale: float, count: int):
    """The video with every frame enlarged and restored; its sound and timing stay.

    Args:
        video: the host's VIDEO.
        restore: (n, H, W, 3) enlarged frames in [0, 1] -> restored frames of the same shape.
        scale: factor of the enlargement.
        count: frames per slice.

    Returns:
        A VIDEO of a file in the host's temporary folder.

    Raises:
        ValueError: if the video has no frames.
    """
    clip = Clip(video)
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(mkdtemp(prefix="hypir_", dir=folder)) / "restored.mp4"
    writer, frames, bar = None, clip.frames(), comfy.utils.ProgressBar(max(1, clip.expected))
    try:
        while slice_ := list(islice(frames, count)):
            check_cancelled()
            done = writer.frames if writer is not None else 0
            with part_of(_text(done, clip.expected)):
                images = restore(_enlarged(slice_, scale))
            if writer is None:
                writer = Writer(path, clip, *images.shape[1:3])
            for frame, image in zip(slice_, images, strict=True):
                writer.write(image, frame.time)
            total = max(clip.expected, writer.frames)
            bar.update_absolute(writer.frames, total)
            show_text(_text(writer.frames, total))
    except BaseException:  # Cancel is none of Exception's
        if writer is not None:
            writer.close()
            _keep(path, writer.frames)
        raise
    if writer is None:
        raise ValueError(
            "the video has no frames between its start and its end; check Trim Video, or connect "
            "another file"
        )
    writer.close()
    return InputImpl.VideoFromFile(str(path))


def _text(done: int, total: int) -> str:
    return f"frame {done}/{total}" if total >= done else f"frame {done}"


def _enlarged(frames: list[Frame], scale: float) -> Tensor:
    """With the filter of the templates' Upscale Image By."""
    images = torch.stack([frame.image for frame in frames])
    check_image(images, "a frame of the video")  # before a resize that rounds and clips
    height, width = images.shape[1:3]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if size == (width, height):
        return images
    enlarged = comfy.utils.common_upscale(images.movedim(-1, 1), *size, "lanczos", "disabled")
    return enlarged.movedim(1, -1)


def _keep(path: Path, frames: int) -> None:
    """Save the finished part of a run that ended early."""
    folder, name, counter, *_ = folder_paths.get_save_image_path(
        PART_PREFIX, folder_paths.get_output_directory()
    )
    kept = Path(folder) / f"{name}_{counter:05}_.mp4"
    shutil.move(path, kept)
    log.warning("HYPIR Restore Video ended early; its first %d frames are in %s", *(frames, kept))
