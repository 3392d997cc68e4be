"""Exact accounting of live tensors: the bytes of every storage, from creation to release."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """In this context, `live` is the bytes of tensors created since its start, `peak` the maximum.

    Existing tensors do not count, nor does the workspace that a kernel allocates and frees itself.
    Works on any device, also on meta, where nothing is computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def ignore(self, *tensors: torch.Tensor) -> None:
        """Exclude these tensors from now on."""
        for tensor in tensors:
            self._known.setdefault(*self._entry(tensor.untyped_storage(), counted=0))

    def burst(self, size: int) -> None:
        """Count `size` bytes that exist only at this moment."""
        self.peak = max(self.peak, self.live + size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not _is_tensor(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in before or storage._cdata in self._known:
                continue
            key, ref = self._entry(storage, counted=storage.nbytes())
            self._known[key] = ref
            self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        return out

    def _entry(self, storage: torch.UntypedStorage, counted: int) -> tuple[int, weakref.ref]:
        key = storage._cdata

        def dies(_: weakref.ref) -> None:
            self.live -= counted
            self._known.pop(key, None)

        return key, weakref.ref(storage, dies)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
