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
    tf32: bool = True
    """Let a GPU compute float32 products in TF32: faster, with 10 bits of mantissa."""
    cudnn_benchmark: bool = True
    """Let cuDNN try which of its convolutions is fastest for each size."""
    compile: bool = False
    """Compile the repeated blocks of the network (torch.compile): the first steps take minutes, all
    others less time."""
    tflops: Annotated[float, Bounds(1e-3, 1e6, "TFLOP/s")] = 150.0
    """Speed of one GPU that the hours of --dry-run assume; an H100 is capable of some 990 in bf16,
    an A100 of 312, and training reaches a third to a half of that."""
    deterministic: bool = False
    """Use torch's deterministic algorithms. On a GPU, bit-exact resuming needs them, and they are
    slower; on the CPU, resuming is always bit-exact."""


def set_kernels(asked: Engine) -> None:
    """Set how a GPU computes products and convolutions, for this process."""
    torch.backends.cudnn.benchmark = asked.cudnn_benchmark and not asked.deterministic
    torch.backends.cudnn.allow_tf32 = asked.tf32
    if torch.cuda.is_available():  # on a CPU the switch may mean bf16
        torch.set_float32_matmul_precision("high" if asked.tf32 else "highest")


def describe_device(device: torch.device, precision: str) -> tuple[str, list[str]]:
    """The device for people, and warnings about what is slow on it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})", []
    slow = []
    if device.type == "cpu" and precision != "no" and not _has_bf16():
        slow = [
            f"{precision} is several times slower than float32 on this CPU, which has no "
            f"instructions for it; use --precision no"
        ]
    return str(device), slow


def _has_bf16() -> bool:
    """Whether the CPU computes in bf16."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def compile_blocks(network: torch.nn.Module, **options: str) -> None:
    """Compile the repeated blocks of a diffusers network in place, names and weights as they are.

    `options`: of torch.compile. A network that does not tell its blocks is compiled as one.
    """
    if getattr(network, "_repeated_blocks", None):
        network.compile_repeated_blocks(**options)
    else:
        network.compile(**options)


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
    set_kernels(asked)
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
