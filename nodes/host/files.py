"""Weight files through the host's own safe reader and folders."""

import comfy.utils
import folder_paths
from torch import Tensor


def load_with_host(path: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata; the host reads pickles as plain tensors only."""
    return comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)


def names(folder: str) -> list[str]:
    """Files of one of the host's model folders, as its loaders list them."""
    return folder_paths.get_filename_list(folder)


def path_of(folder: str, name: str) -> str:
    """Full path of a listed file.

    Raises:
        FileNotFoundError: if it is gone.
    """
    return folder_paths.get_full_path_or_raise(folder, name)
