"""The engine of a run: precision, determinism, and accelerate's processes."""

import os
from typing import TYPE_CHECKING, Annotated, Literal

import torch

from .bounds import Bounds, settings

if TYPE_CHECKING:
    from accelerate import Accelerator


@settings
class Engine:
    """Precision, memory and determinism."""

    precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Precision of the forward pass and of frozen weights; no = float32."""
    gradient_checkpointing: bool = True
    """Recompute the network's activations in the backward pass to save memory."""
    vae_checkpointing: bool = True
    """Recompute the autoencoder's activations too; without it a step computes less, and needs
    several GiB more at 512 px."""
    tflops: Annotated[float, Bounds(1e-3, 1e6, "TFLOP/s")] = 150.0
    """Speed of one GPU that the hours of --dry-run assume; an H100 is capable of some 990 in bf16,
    an A100 of 312, and training reaches a third to a half of that."""
    deterministic: bool = False
    """Use torch's deterministic algorithms. On a GPU, bit-exact resuming needs them, and they are
    slower; on the CPU, resuming is always bit-exact."""


def make_accelerator(asked: Engine, cpu: bool = False) -> "Accelerator":
    """The Accelerator as configured by `accelerate launch`, or for one process.

    Raises:
        ValueError: for an engine that the stages do not support.
    """
    # Imported here, so that options can be read without the training libraries.
    from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType

    from .sharding import adapt_plugin, is_sharded

    if asked.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as torch's manual requires
        torch.use_deterministic_algorithms(True, warn_only=True)
    # Buffers differ between processes: each shifts the position table for its own images.
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
