"""The modules of the public SD2 file against diffusers' own network."""

import re
from math import prod

import pytest
import torch
from diffusers import UNet2DConditionModel

from hypir.public_file import PUBLIC_RANK, TARGETS, public_sd2_modules

SD21 = {  # stabilityai/stable-diffusion-2-1-base, unet/config.json
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.device("meta"):
        return UNet2DConditionModel(**SD21)


def test_they_are_the_modules_of_diffusers_that_the_public_targets_name(network):
    # peft takes a module if its name is a target or ends in "." + target
    target = re.compile("(.*\\.)?(" + "|".join(map(re.escape, TARGETS)) + ")")
    expected = {
        name: tuple(module.weight.shape)
        for name, module in network.named_modules()
        if target.fullmatch(name) and hasattr(module, "weight")
    }
    assert public_sd2_modules() == expected


def test_they_are_all_linear_layers_and_convolutions_but_those_of_time_and_input(network):
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = {name for name, module in network.named_modules() if isinstance(module, kinds)}
    left_out = layers - public_sd2_modules().keys()
    assert all(n == "conv_in" or "time_emb" in n for n in left_out)
    assert public_sd2_modules().keys() <= layers


def test_there_are_257_in_the_order_of_the_file():
    names = list(public_sd2_modules())
    assert len(names) == 257
    # first and last names of the public file, and of its down, up and middle parts
    assert names[0] == "down_blocks.0.attentions.0.proj_in"
    assert names[-1] == "conv_out"
    parts = [name.split(".")[0] for name in names]
    assert list(dict.fromkeys(parts)) == ["down_blocks", "up_blocks", "mid_block", "conv_out"]


def test_the_public_file_is_a_gigabyte():
    values = sum(PUBLIC_RANK * (s[0] + prod(s[1:])) for s in public_sd2_modules().values())
    assert 0.9 < 4 * values / 2**30 < 1.1  # float32; the public file is about 1 GB
