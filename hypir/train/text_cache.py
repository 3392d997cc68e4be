"""Embeddings of captions on disk: computed once, so that frozen text encoders can leave the GPU.

One .safetensors per caption, named by a digest of caption and base model, so that runs may share a
folder, and what a killed run has made is found again. Processes share the work.
"""

import hashlib
import logging
import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .architectures import Condition
from .data import Mixture
from .models import Text
from .recipe import Recipe

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Captions that are encoded together."""
IN_MEMORY = 64
"""Embeddings that are not read from the disk again at once."""
GIB = 2**30


class CachedText(Text):
    """Captions to conditions, from files; what is not there yet is encoded where the encoders are.

    Raises:
        OSError: if a file cannot be written.
    """

    def __init__(self, text: Text, folder: Path, model: str):
        super().__init__(text.architecture, text.widths, text.pipeline)
        self._folder, self._model = folder, model
        self._read = lru_cache(IN_MEMORY)(self._read_file)

    @torch.no_grad()
    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Conditions of captions, as those of the encoders; copied without waiting."""
        self.prepare(captions, self.pipeline.device)
        found = [self._read(caption) for caption in captions]
        rows = [values["tokens"] for values in found]
        same = len({len(row) for row in rows}) == 1
        ahead = device.type != "cpu"
        pooled = [values["pooled"] for values in found if "pooled" in values]
        condition = Condition(
            torch.stack(rows).to(device, non_blocking=ahead)
            if same
            else tuple(row.to(device, non_blocking=ahead) for row in rows),
            torch.stack(pooled).to(device, non_blocking=ahead) if pooled else None,
        )
        return condition

    @torch.no_grad()
    def prepare(self, captions: Collection[str], device: torch.device) -> int:
        """Encode what is not on the disk; how many that were."""
        missing = [c for c in dict.fromkeys(captions) if not self._file(c).is_file()]
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            found = self.architecture.encode(self.pipeline, list(part), device)
            for i, caption in enumerate(part):
                values = {"tokens": found.tokens[i]}
                if found.pooled is not None:
                    values["pooled"] = found.pooled[i]
                self._write(self._file(caption), values)
        return len(missing)

    def bytes_each(self) -> int:
        """Size of the longest embedding there may be."""
        self.prepare([""], self.pipeline.device)
        values = self._read("")
        rows = max(len(values["tokens"]), self.architecture.text_tokens)
        row = values["tokens"][0].nbytes
        return rows * row + sum(v.nbytes for k, v in values.items() if k == "pooled")

    def _file(self, caption: str) -> Path:
        digest = hashlib.sha256(f"{self._model}\n{caption}".encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.safetensors"

    def _read_file(self, caption: str) -> dict[str, Tensor]:
        return load_file(self._file(caption))

    def _write(self, file: Path, values: dict[str, Tensor]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        save_file({k: v.to("cpu").contiguous().clone() for k, v in values.items()}, partial)
        os.replace(partial, file)  # another process may have been faster; it wrote the same


def make_text(text: Text, recipe: Recipe, accelerator) -> Text:
    """The text part of a stage: cached where all captions fit the limit, else on the device.

    Models that are made here have no encoders, and nothing to cache.
    """
    limit = recipe.data.text_cache * GIB
    if text.pipeline is None or not limit:
        return text.to(accelerator.device)
    folder = Path(recipe.data.text_folder or Path(recipe.out) / "text")
    model = f"{recipe.model.prior} {recipe.model.base} {recipe.model.variant} "
    cached = CachedText(text, folder, model + recipe.engine.precision)
    text.to(accelerator.device)
    each = cached.bytes_each()
    captions = Mixture(recipe.data, recipe.seed).captions(int(limit // each))
    if captions is None:
        log.info(
            "text encoders stay on the device: embeddings of all captions, %.0f KiB each, exceed "
            "--text-cache %g GiB",
            *(each / 1024, recipe.data.text_cache),
        )
        return text
    own = captions[accelerator.process_index :: accelerator.num_processes]
    made = cached.prepare(own, accelerator.device)
    accelerator.wait_for_everyone()
    log.info("captions: %d embeddings in %s, %d of them new", len(captions), folder, made)
    return cached.to(torch.device("cpu"))
