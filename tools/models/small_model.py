"""Put the four files of a training run into models/: `python -m tools.models.small_model RUN`.

RUN is the folder that `python -m hypir train tiny --out RUN` filled.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tools.workflows.parts import TINY, TINY_ENCODER, TINY_LORA, TINY_VAE

MODELS = Path(__file__).resolve().parents[2] / "models"
FILES = {
    "prior.safetensors": TINY,
    "autoencoder.safetensors": TINY_VAE,
    "tiny_encoder.safetensors": TINY_ENCODER,
    "tiny_lora.safetensors": TINY_LORA,
}
MOST_BYTES = 20_000_000


def install(run: Path, models: Path = MODELS) -> int:
    """Copy the files under the names that the templates use; how many bytes they are.

    Raises:
        ValueError: if one is missing, or all together are larger than MOST_BYTES.
    """
    missing = [name for name in FILES if not (run / name).is_file()]
    if missing:
        raise ValueError(f"{run} must hold {', '.join(FILES)}; it lacks {', '.join(missing)}")
    size = sum((run / name).stat().st_size for name in FILES)
    if size > MOST_BYTES:
        raise ValueError(
            f"the small model must not exceed {MOST_BYTES} bytes, got {size}; export it as fp16"
        )
    for name, model in FILES.items():
        folder = models / model.directory
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, folder / model.name)
    return size


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    try:
        size = install(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(f"{size / 1e6:.1f} MB in {MODELS}\n")


if __name__ == "__main__":
    main()
