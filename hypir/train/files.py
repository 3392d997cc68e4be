"""The starting point of a run: the base model, and weight files from this or other runs."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from hypir.priors import PRIORS

from .bounds import Bounds, Filled, settings

AUTOENCODER_FILE, PRIOR_FILE = "autoencoder.safetensors", "prior.safetensors"
ENCODER_FILE = "{name}_encoder.safetensors"
LORA_FILE = "{name}_lora.safetensors"
UNROUNDED = "checkpoints"
"""Folder beside exported files with the same in float32, where those are rounded: what this run's
later stages read, and a stage itself when it resumes."""
WRITES = {
    "autoencoder": ("autoencoder_file", AUTOENCODER_FILE),
    "diffusion": ("prior_file", PRIOR_FILE),
    "encoder": ("encoder_file", ENCODER_FILE),
    "adversarial": ("lora_file", LORA_FILE),
}
"""By stage: the field of Files for its output, and the file's name; {name} is the recipe's name."""


@settings
class Model:
    """The base model."""

    prior: Literal[tuple(PRIORS)] = "sd2"
    """The kind of base model."""
    base: Annotated[str, Filled("a folder, a name on the hub, small, or tiny")] = "small"
    """The base model in diffusers layout: a folder, or a name on the Hugging Face hub. small: a
    small model of the prior's class with random weights; tiny: an SD3-class network with a TAESD
    autoencoder."""
    variant: str = ""
    """Variant of the base model's files, such as fp16."""
    depth: Annotated[int, Bounds(1, 38, "blocks")] = 3
    """Number of blocks of the tiny network; its width is 64 times as large."""


@settings
class Files:
    """Weights to start from; empty: those of this run, if any."""

    autoencoder_file: str = ""
    """Autoencoder of the tiny base, .safetensors."""
    prior_file: str = ""
    """Network of the tiny base, .safetensors."""
    encoder_file: str = ""
    """Degradation-removal encoder for the adversarial stage, and the start of the encoder stage
    (empty: the base model's own encoder)."""
    lora_file: str = ""
    """HYPIR weights with the same rank and modules, from which the adversarial stage starts."""

    def given(self, leave_out: Collection[str] = ()) -> dict[str, str]:
        """The given files, by field."""
        return {k: v for k, v in vars(self).items() if v and k not in leave_out}

    def find(self, stage: str, out: str, name: str) -> Path | None:
        """The output of a stage: the given file, else that of this run in `out`, if it exists."""
        field, file = WRITES[stage]
        given = getattr(self, field)
        path = Path(given) if given else unrounded(Path(out) / file.format(name=name))
        return path if given or (out and path.is_file()) else None


def unrounded(file: Path) -> Path:
    """Where a file that a run wrote is as it was trained; itself, if it was not rounded."""
    exact = file.parent / UNROUNDED / file.name
    return exact if exact.is_file() else file
