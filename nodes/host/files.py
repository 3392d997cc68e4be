"""Weight files through the host's own safe reader and folders."""

from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

EMBEDDED = Path(__file__).resolve().parents[2] / "models"
"""The small model that comes with the pack, in the host's folder names."""


def register_embedded_models() -> None:
    """Make the host's loaders list the small model, after the user's own files."""
    for folder in sorted(path for path in EMBEDDED.iterdir() if path.is_dir()):
        folder_paths.add_model_folder_path(folder.name, str(folder))


def load_with_host(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a file; the host's reader loads only plain tensors from pickles."""
    return comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)


def names(folder: str) -> list[str]:
    """Files of one of the host's model folders, as its loaders list them."""
    return folder_paths.get_filename_list(folder)


def path_of(folder: str, name: str) -> str:
    """Full path of a listed file.

    Raises:
        FileNotFoundError: if it no longer exists.
    """
    return folder_paths.get_full_path_or_raise(folder, name)


def fingerprint(folder: str, name: str | None) -> str | float:
    """Changes with the file, so that the host runs its loader again.

    NaN, which is never the same, for a name that another node gives and the host does not yet know.
    """
    if name is None:
        return float("nan")
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return "gone"
    state = Path(path).stat()
    return f"{path} {state.st_mtime_ns} {state.st_size}"
