"""The stand-in for SD2.1 and its HYPIR LoRA."""

from __future__ import annotations

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hypir.texture import embed_richness
from hypir.weights import read_weights
from tools.models import stand_in


def test_the_stand_in_is_small_and_loads_without_running_code(tmp_path):
    checkpoint, lora = stand_in.write_stand_in(tmp_path)
    assert checkpoint.stat().st_size < 2 * 2**20
    assert lora.stat().st_size < 2 * 2**20
    tensors = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    last = tensors["model.diffusion_model.out.2.weight"]
    assert last.shape == (4, 320, 3, 3)
    assert not last.any()


def test_the_stand_ins_lora_lists_exactly_its_modules(tmp_path):
    with safe_open(stand_in.write_lora(tmp_path / "lora.safetensors"), "pt") as file:
        modules = json.loads(file.metadata()["hypir.modules"])
        keys = set(file.keys())
    stems = ["lora_unet_" + module.replace(".", "_") for module in modules]
    assert keys == {f"{stem}.lora_{side}.weight" for stem in stems for side in ("up", "down")}


def test_a_stand_in_takes_a_richness_when_asked_to(tmp_path):
    plain = stand_in.write_lora(tmp_path / "plain.safetensors")
    rich = stand_in.write_lora(tmp_path / "rich.safetensors", texture=True)
    assert read_weights(plain).texture is None
    token = embed_richness(torch.tensor([0.2, 0.8]), dict(read_weights(rich).texture))
    assert token.shape == (2, 1, stand_in.CONTEXT)
    assert not torch.equal(token[0], token[1])
    first, second = load_file(plain), load_file(rich)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_stand_ins_are_the_same_to_the_bit(tmp_path):
    first, second = (stand_in.write_stand_in(tmp_path / name) for name in ("a", "b"))
    for one, other in (
        [torch.load(file[0], weights_only=True)["state_dict"] for file in (first, second)],
        [load_file(file[1]) for file in (first, second)],
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)
