"""Weight files on disk: safe reading, clear errors for damaged files, atomic writing."""

import errno
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

Loader = Callable[[str], tuple[dict[str, Tensor], dict[str, str] | None]]
"""path -> (tensors, metadata). It must never run code from a pickle."""


def read_tensors(
    path: str | os.PathLike, load: Loader | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the named tensors and metadata of a file.

    Args:
        path: .safetensors, or .pth read as plain tensors (no code in it runs).
        load: the reader, load_plain by default.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if the system cannot read it.
        ValueError: if the file is unsafe, damaged or contains anything but tensors.
        MemoryError: naming the file, if there is too little for it.
    """
    name = Path(path).name
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; check the name and the folder")
    try:
        tensors, metadata = (load or load_plain)(os.fspath(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name} must contain plain tensors, but it tries to run Python code or is not a "
            "weight file; nothing was run: download the file again from its source"
        ) from error
    except MemoryError as error:
        raise MemoryError(
            f"{name} ({Path(path).stat().st_size} bytes) asks for more memory than is free; close "
            "other programs, and if its source names another size, download it again"
        ) from error
    except Exception as error:  # on damaged bytes, torch's reader can raise anything
        # EINVAL: it sought to a place that a damaged index names
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise OSError(
                f"{name} cannot be read: {error}; check the disk and your rights"
            ) from error
        raise ValueError(
            f"{name} cannot be read as weights: it is incomplete or damaged "
            f"({Path(path).stat().st_size} bytes); download it again"
        ) from error
    if not isinstance(tensors, dict) or not tensors:
        raise ValueError(
            f"{name} must contain named tensors, but has none; download the file again"
        )
    stray = [k for k, v in tensors.items() if not isinstance(k, str) or not isinstance(v, Tensor)]
    if stray:
        raise ValueError(
            f"{name} must contain only named tensors, but {len(stray)} entries are not tensors, "
            f"first {stray[0]!r}; use a weight file, not a training state"
        )
    return {k: v.detach() for k, v in tensors.items()}, metadata or {}


def load_plain(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a .safetensors, or tensors of a .pth, without running any code."""
    if Path(path).suffix.lower() in (".safetensors", ".sft"):
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    return torch.load(path, map_location="cpu", weights_only=True), None


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a .safetensors atomically: it appears under its name only when complete.

    Raises:
        ValueError: if the name does not end in .safetensors.
        FileNotFoundError: if the folder does not exist.
        OSError: if it cannot be written, for example on a full disk; nothing is left behind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"the output must be a .safetensors file, got {path.name!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}; create it first")
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what umask gives; the library makes files private
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, dict(metadata))
        os.chmod(partial, mode)
        os.replace(partial, path)
    except SafetensorError as error:
        raise OSError(f"{path.name} could not be written: {error}; free some disk space") from error
    finally:
        partial.unlink(missing_ok=True)
