"""Put the four files of a training run into models/.

    python -m tools.models.small_model RUN

RUN is the folder that `python -m hypir train small --out RUN` filled.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools import ROOT
from tools.command_line import Parser, run
from tools.workflows.parts import TINY, TINY_ENCODER, TINY_LORA, TINY_VAE

MODELS = ROOT / "models"
FILES = {
    "prior.safetensors": TINY,
    "autoencoder.safetensors": TINY_VAE,
    "small_encoder.safetensors": TINY_ENCODER,
    "small_lora.safetensors": TINY_LORA,
}
MOST_BYTES = 20_000_000


def install(folder: Path, models: Path = MODELS) -> int:
    """Copy the files under the names that the templates use; how many bytes they are.

    Raises:
        ValueError: if one is missing, or all together are larger than MOST_BYTES.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} must hold {', '.join(FILES)}; it lacks {', '.join(missing)}")
    size = sum((folder / name).stat().st_size for name in FILES)
    if size > MOST_BYTES:
        raise ValueError(
            f"the small model must not exceed {MOST_BYTES} bytes, got {size}; export it as fp16"
        )
    for name, model in FILES.items():
        target = models / model.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target)
    return size


def main() -> None:
    parser = Parser("python -m tools.models.small_model", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder that the training filled")
    size = install(parser.parse_args().run)
    sys.stdout.write(f"{size / 1e6:.1f} MB in {MODELS}\n")


if __name__ == "__main__":
    run(main)
