"""The LoRA: its size, the modules that it adapts, and the step in which it is trained."""

from typing import Annotated

import torch
from torch import nn

from .bounds import Bounds, Filled, settings


@settings
class Lora:
    """The LoRA, and the one step that it is trained for."""

    rank: Annotated[int, Bounds(1, 4096)] = 64
    """Rank of the LoRA; alpha is the same."""
    targets: tuple[Annotated[str, Filled("the end of a module's name")], ...] = ()
    """Ends of the names of the adapted modules; none = the prior's own."""
    timestep: Annotated[int, Bounds(0, 999, "of 1000", also=(-1,))] = -1
    """What the network is told, -1 = the prior's."""
    coefficient_timestep: Annotated[int, Bounds(0, 999, "of 1000", also=(-1,))] = -1
    """What turns its output into x0, -1 = timestep."""
    input_scale: Annotated[float, Bounds(1e-3, 10, "times", also=(-1.0,))] = -1.0
    """k of x_t = k z, -1 = the prior's at the timestep."""


def add_lora(network: nn.Module, rank: int, targets: tuple[str, ...], seed: int) -> None:
    """A fresh LoRA on every module whose name ends in one of `targets`, trained in float32.

    Gaussian A, zero B, alpha = rank: the network computes what it did before.
    """
    # Here, so that the options can be read without the libraries of training.
    from peft import LoraConfig, inject_adapter_in_model

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
