"""The engine under a run: precision, determinism, and accelerate's processes."""

import os
from typing import TYPE_CHECKING, Literal

import torch

from .bounds import settings

if TYPE_CHECKING:
    from accelerate import Accelerator


@settings
class Engine:
    """How a step is computed."""

    precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Of the forward pass and of frozen weights; no = float32."""
    gradient_checkpointing: bool = True
    """Compute activations twice and keep fewer."""
    deterministic: bool = False
    """Use torch's deterministic algorithms: on a GPU, resumption to the bit needs them and costs
    time; on the CPU it holds anyway."""


def make_accelerator(asked: Engine, cpu: bool = False) -> "Accelerator":
    """Accelerate's engine as `accelerate launch` set it up, or for one process.

    Raises:
        ValueError: for an engine that the stages do not run on.
    """
    # Here, so that the options can be read without the libraries of training.
    from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

    from .sharding import adapt_plugin, is_sharded

    if asked.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's manual asks for
        torch.use_deterministic_algorithms(True, warn_only=True)
    # Buffers are each process's own: the table of positions is shifted for its pictures.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    accelerator = Accelerator(mixed_precision=asked.precision, cpu=cpu, kwargs_handlers=handlers)
    whole = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if is_sharded(accelerator):
        adapt_plugin(accelerator)
    elif accelerator.distributed_type not in whole:
        raise ValueError(
            f"training runs on one device or on several (DDP, FSDP), not under "
            f"{accelerator.distributed_type.value}; choose one of these in accelerate's "
            f"configuration"
        )
    return accelerator
