"""accelerate's part in a plan: one process on the meta device, and what a GPU would do there.

On the meta device torch has no autocast and computes attention with a matrix of all pairs. A GPU
has both otherwise, which decides about memory, so they are put in its place here.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import DistributedType
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hypir.train.precision import is_off
from hypir.train.recompute import CONTEXTS

META = torch.device("meta")
LOW = {F.linear, F.conv2d, F.conv_transpose2d, F.conv1d, torch.conv2d, torch.conv_transpose2d}
LOW |= {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.addmm, torch.baddbmm}
LOW |= {torch.einsum, F.scaled_dot_product_attention}
"""What autocast computes in half precision on a GPU (PyTorch's manual, Autocast Op Reference)."""
FULL = {F.layer_norm, F.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.mse_loss}
FULL |= {F.l1_loss, F.binary_cross_entropy_with_logits, F.softplus, torch.log, torch.exp}
"""What it computes in float32."""


class MetaKernels(TorchFunctionMode):
    """Within, attention keeps what the memory-efficient kernels of a GPU keep."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3] if len(args) > 2 else _heads(*args, **kwargs)
        if not query.is_meta:
            return func(*args, **kwargs)
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(query, key, value, None, torch.is_grad_enabled())[0]


class MetaAutocast(TorchFunctionMode):
    """Autocast to half precision, as on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_off() and (func in LOW or func in FULL):
            dtype = torch.bfloat16 if func in LOW else torch.float32
            args = [_cast(value, dtype) for value in args]
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)


class MetaEngine:
    """What a stage asks of accelerate."""

    device = META
    num_processes, process_index, is_main_process = 1, 0, True
    distributed_type = DistributedType.NO
    scaler = None

    def __init__(self, precision: str):
        self._half = precision != "no"

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Within, blocks are computed again as at first; torch leaves the modes around a step."""
        token = CONTEXTS.set(lambda: (nullcontext(), self._again(is_off())))
        try:
            yield
        finally:
            CONTEXTS.reset(token)

    @contextmanager
    def _again(self, off: bool) -> Iterator[None]:
        with MetaKernels(), nullcontext() if off else self.autocast():
            yield

    def autocast(self) -> AbstractContextManager:
        """That of the precision; fp16 has the size of bf16."""
        return MetaAutocast() if self._half else nullcontext()

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple:
        """To the device; nothing is wrapped."""
        return module.to(META), optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients."""
        loss.backward()

    def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing is scaled."""

    def no_sync(self, module: nn.Module) -> AbstractContextManager:
        """There is one process."""
        return nullcontext()


def _heads(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple:
    return query, key, value


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != dtype:
        return value.to(dtype)
    return value
