"""FSDP: every process holds a shard of each parameter; accelerate and torch gather them.

Checkpoints, averages and exported files contain whole tensors, gathered here from the shards, so a
sharded run writes the same files as an unsharded one.
"""

from collections.abc import Mapping

import torch
from accelerate import Accelerator, DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether the parameters are sharded."""
    return accelerator.distributed_type == DistributedType.FSDP


def adapt_plugin(accelerator: Accelerator) -> None:
    """Set accelerate's FSDP options as the stages need them.

    Autocast sets the precision, as without FSDP: the plugin's own setting would round the latents
    given to the generator. All processes create the same weights from the seed, so none are sent.

    Raises:
        ValueError: for FSDP version 1, which does not keep separate parameters.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"training needs FSDP version 2, got {plugin.fsdp_version}; set fsdp_version: 2 in "
            "accelerate's configuration"
        )
    plugin.mixed_precision_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    plugin.cpu_ram_efficient_loading = False


def prepare(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Prepare a module and its optimizer for DDP or FSDP; FSDP gathers it block by block.

    The blocks are those that the networks inside declare as not to be split.
    """
    if is_sharded(accelerator):
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        inside = list(module.modules())
        named = {n for m in inside for n in getattr(m, "_no_split_modules", None) or ()}
        plugin = accelerator.state.fsdp_plugin
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(named & {type(m).__name__ for m in inside})
        for parameter in module.parameters():
            parameter.data = parameter.data.contiguous()  # it accepts no other memory order
    return accelerator.prepare(module, optimizer)


def whole(value):
    """Whole tensors, or dictionaries and lists of them; every process must call this."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {k: whole(v) for k, v in value.items()}
    return [whole(v) for v in value] if isinstance(value, list) else value


def part_like(value: Tensor, own: Tensor) -> Tensor:
    """This process's shard of a whole tensor, if `own` is sharded."""
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load whole tensors into an optimizer whose parameters may be sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        i: {k: _part_of_moment(v, parameters[i]) for k, v in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})


def _part_of_moment(value, parameter: Tensor):
    """Moments have their parameter's shape; counters are not sharded."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
        return part_like(value, parameter)
    return value
