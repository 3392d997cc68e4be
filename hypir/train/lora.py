"""The LoRA: its size, its modules, and the restoration step it is trained for."""

from typing import Annotated

import torch
from torch import nn

from .bounds import Bounds, Filled, settings


@settings
class Lora:
    """The LoRA and the restoration step."""

    rank: Annotated[int, Bounds(1, 4096)] = 64
    """Rank of the LoRA; alpha is the same."""
    targets: tuple[Annotated[str, Filled("the end of a module's name")], ...] = ()
    """Endings of the names of the adapted modules; none = the prior's default."""
    timestep: Annotated[int, Bounds(0, 999, "of 1000", also=(-1,))] = -1
    """Timestep given to the network; -1 = the prior's default."""
    coefficient_timestep: Annotated[int, Bounds(0, 999, "of 1000", also=(-1,))] = -1
    """Timestep used to compute x0 from the output; -1 = the same as timestep."""
    input_scale: Annotated[float, Bounds(1e-3, 10, "times", also=(-1.0,))] = -1.0
    """Input scale k of x_t = k z; -1 = the prior's value at the timestep."""


def add_lora(
    network: nn.Module, rank: int, targets: tuple[str, ...], seed: int, autocast: bool = False
) -> None:
    """Add a new LoRA to every module whose name ends in one of `targets`, trained in float32.

    Gaussian A, zero B, alpha = rank: the network's output does not change. `autocast`: it is only
    called within autocast, which sets the precision of its inputs.
    """
    # Imported here, so that options can be read without the training libraries.
    from peft import LoraConfig, inject_adapter_in_model

    names = [n for n, m in network.named_modules() if getattr(m, "weight", None) is not None]
    for target in targets:
        if not any(name == target or name.endswith("." + target) for name in names):
            raise ValueError(
                f"targets must be ends of names of the network's modules, but none ends in "
                f"{target!r}; one of them is called {names[len(names) // 2]!r}"
            )
    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    for module in network.modules():
        # peft would take every input to float32 first, only for autocast to take it back.
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = not autocast
