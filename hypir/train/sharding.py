"""FSDP: every process holds a part of each parameter, accelerate and torch put them together.

Checkpoints, averages and exported files do not know of it: they hold whole tensors, made here from
the parts, so a run that was cut in parts leaves the same files as one that was not.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the processes hold parts of the parameters."""
    return accelerator.distributed_type == DistributedType.FSDP


def adapt_plugin(accelerator: Accelerator) -> None:
    """Make accelerate's settings for FSDP those that the stages need.

    Precision is autocast's, as without FSDP: the plugin's own would round latents on their way into
    the generator. Every process makes the same weights from the seed, so none is sent at the start.

    Raises:
        ValueError: for FSDP's first version, which keeps no parameter by itself.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"training needs FSDP's version 2, got {plugin.fsdp_version}; set fsdp_version: 2 in "
            f"accelerate's configuration"
        )
    plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    plugin.cpu_ram_efficient_loading = False


def prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A module and its optimizer, for whatever engine runs; FSDP gathers it block by block.

    Blocks are those that the networks inside name as not to be split.
    """
    if is_sharded(accelerator):
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        inside = list(module.modules())
        named = {n for m in inside for n in getattr(m, "_no_split_modules", None) or ()}
        plugin = accelerator.state.fsdp_plugin
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(named & {type(m).__name__ for m in inside})
        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # it takes no other order in memory
    return accelerator.prepare(module, optimizer)


def whole(value):
    """Tensors, or dictionaries and lists of them, without parts; called by every process."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {k: whole(v) for k, v in value.items()}
    return [whole(v) for v in value] if isinstance(value, list) else value


def part_like(value: Tensor, own: Tensor) -> Tensor:
    """Of a whole tensor what this process holds, if `own` is held in parts."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load whole tensors into an optimizer whose parameters may be parts."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        i: {k: _part_of_moment(v, parameters[i]) for k, v in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _part_of_moment(value, parameter: Tensor):
    """Moments have their parameter's shape; counters stay as they are."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
        return part_like(value, parameter)
    return value
