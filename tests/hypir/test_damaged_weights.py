"""Weight files that are not sound: every damage is refused with a sentence of its own."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hypir.weights import TEXTURE_PREFIX, read_weights, save_weights

from .test_weights import small_weights

CONV_A, CONV_B = "conv_out.lora_A.default.weight", "conv_out.lora_B.default.weight"
MID_A = "mid_block.resnets.0.conv1.lora_A.default.weight"
MID_B = "mid_block.resnets.0.conv1.lora_B.default.weight"


def without(*keys):
    return lambda t: {k: v for k, v in t.items() if k not in keys}


def using(**values):
    """Changes of the last convolution's factors."""
    names = {"a": CONV_A, "b": CONV_B}
    return lambda t: t | {names[key]: value for key, value in values.items()}


def spoiled(key, value, dtype=torch.float32):
    def change(t):
        bad = t[key].to(dtype).clone()
        bad.view(-1)[7] = value
        return t | {key: bad}

    return change


DAMAGE = {
    "a factor missing": (
        without(CONV_A),
        r"is incomplete: 1 of 257 modules lack a factor, first 'conv_out'",
    ),
    "modules missing": (
        without(CONV_A, CONV_B, MID_A, MID_B),
        r"is incomplete: 2 of 257 modules lack a factor, first 'mid_block.resnets.0.conv1'",
    ),
    "a tensor more": (
        lambda t: t | {"step": torch.zeros(1)},
        r"has tensors that no HYPIR file has \(1 of 515\), first 'step'",
    ),
    "a module more": (
        lambda t: t | {f"time_proj.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"},
        r"\(2 of 516\), first 'time_proj.lora_A.weight'; expected only two factors for each of",
    ),
    "one factor twice": (
        lambda t: t | {"unet." + CONV_A: t[CONV_A]},
        r"\(1 of 515\), first 'conv_out.lora_A.default.weight'",
    ),
    "a kernel of another size": (
        using(a=torch.zeros(2, 320, 1, 1)),
        r"1 of 257 modules of another shape, first 'conv_out' with \(4, 320, 1, 1\); "
        r"expected \(4, 320, 3, 3\)",
    ),
    "other channels": (
        using(b=torch.zeros(16, 2, 1, 1)),
        r"first 'conv_out' with \(16, 320, 3, 3\); expected \(4, 320, 3, 3\)",
    ),
    "another rank": (
        using(a=torch.zeros(3, 320, 3, 3), b=torch.zeros(4, 3, 1, 1)),
        r"same rank \(2\) in all modules, but 'conv_out' has up \(4, 3, 1, 1\)",
    ),
    "factors that do not multiply": (
        using(b=torch.zeros(4, 3, 1, 1)),
        r"same rank \(2\) in all modules, but 'conv_out' has up \(4, 3, 1, 1\) and down \(2, 320",
    ),
    "an up factor with a kernel": (
        using(b=torch.zeros(4, 2, 3, 3)),
        r"same rank \(2\) in all modules, but 'conv_out' has up \(4, 2, 3, 3\)",
    ),
    "a number for a factor": (
        using(a=torch.tensor(1.0)),
        r"same rank \(2\) in all modules, but 'conv_out' has up .* and down \(\)",
    ),
    "a NaN": (
        spoiled(MID_B, float("nan")),
        r"NaN or infinite values in 1 of 514 tensors, first 'mid_block.resnets.0.conv1.lora_B",
    ),
    "an infinity in half": (
        spoiled(MID_A, float("inf"), torch.float16),
        r"NaN or infinite values in 1 of 514 tensors, first 'mid_block.resnets.0.conv1.lora_A",
    ),
    "whole numbers": (
        lambda t: t | {CONV_A: t[CONV_A].to(torch.int8)},
        r"must contain float32, .* 1 of 514 tensors do not, first 'conv_out.* with torch.int8",
    ),
    "8-bit floats": (
        lambda t: t | {CONV_A: t[CONV_A].to(torch.float8_e4m3fn)},
        r"must contain float32, .* first 'conv_out.* with torch.float8_e4m3fn",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_public_file_is_refused_in_its_own_words(damage, public_lora, tmp_path):
    change, sentence = DAMAGE[damage]
    torch.save(change(public_lora), tmp_path / "lora.pth")
    with pytest.raises(ValueError, match="^lora.pth .*" + sentence):
        read_weights(tmp_path / "lora.pth")


def test_a_file_of_rank_zero_is_refused(public_lora, tmp_path):
    empty = {k: v[:0] if "lora_A" in k else v[:, :0] for k, v in public_lora.items()}
    torch.save(empty, tmp_path / "lora.pth")
    with pytest.raises(ValueError, match=r"same rank \(0\) in all modules, but 'down_blocks.0"):
        read_weights(tmp_path / "lora.pth")


OTHERS = {
    "a LoRA of another method or base model": "lora_unet_down_blocks_0_attentions_0.lora_up.weight",
    "a full checkpoint": "model.diffusion_model.input_blocks.0.0.weight",
    "an autoencoder": "encoder.conv_in.weight",
    "something else": "layers.0.weight",
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_file_of_something_else_is_called_what_it_is(what, tmp_path):
    # the telling name comes late, after those of a text encoder
    tensors = {f"aaa.text_model.{n}.weight": torch.zeros(1) for n in range(60)}
    tensors |= {OTHERS[what]: torch.zeros(1)}
    save_file(tensors, tmp_path / "other.safetensors")
    sentence = f"^other.safetensors is not a HYPIR weight file: it looks like {what}, first tensor "
    with pytest.raises(ValueError, match=sentence + r"'aaa.* \(257 modules, 'down_blocks.0"):
        read_weights(tmp_path / "other.safetensors")


def write_native(path, has_texture: bool, tensors: dict, metadata: dict) -> None:
    """A sound file of ours with some tensors and metadata replaced; None removes an entry."""
    save_weights(small_weights(texture=has_texture), path)
    with safe_open(path, framework="pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()} | tensors
        told = file.metadata() | {f"hypir.{key}": value for key, value in metadata.items()}
    save_file(
        {k: v for k, v in held.items() if v is not None},
        path,
        {k: v for k, v in told.items() if v is not None},
    )


METADATA = {
    "a later layout": ({"format": "2"}, "has layout '2', but this version reads '1'; update"),
    "an unknown prior": ({"prior": "sd9"}, r"prior 'sd9' with 'eps' prediction.*known: sd2, sd2-v"),
    "another prediction": ({"prediction": "v"}, "prior 'sd2' with 'v' prediction"),
    "no prior": ({"prior": None}, r"damaged hypir.\* metadata \('hypir.prior'\)"),
    "no timestep": ({"timestep": None}, r"damaged hypir.\* metadata \('hypir.timestep'\)"),
    "a word for a timestep": ({"timestep": "x"}, r"damaged hypir.\* metadata \(invalid literal"),
    "a timestep beyond": ({"timestep": "1000"}, r"damaged hypir.\* metadata \(timestep 1000\)"),
    "a negative one": ({"coefficient_timestep": "-1"}, r"damaged .* metadata \(timestep -1\)"),
    "no number": ({"input_scale": "nan"}, "damaged .*input_scale or .* not a valid number"),
    "no scale": ({"input_scale": "0"}, "damaged .*input_scale or .* not a valid number"),
    "no list": ({"modules": "{"}, r"damaged hypir.\* metadata \(Expecting"),
    "a number of modules": ({"modules": "3"}, r"damaged hypir.\* metadata \('int' object"),
    "numbers of modules": ({"modules": "[1, 2]"}, "damaged .*hypir.modules is not a list of names"),
    "no modules": ({"modules": "[]"}, "damaged .*hypir.modules is not a list of names"),
    "no conditions": ({"conditions": "[]"}, r"damaged hypir.\* metadata \('list' object"),
    "empty conditions": ({"conditions": '{"a": null}'}, r"damaged hypir.\* metadata \(float"),
    "endless conditions": ({"conditions": '{"a": Infinity}'}, "damaged .* not a valid number"),
    "a list without end": ({"modules": "[" * 100_000}, r"damaged hypir.\* metadata \(maximum rec"),
    "conditions too large": (
        {"conditions": '{"a": ' + "9" * 400 + "}"},
        r"damaged hypir.\* metadata \(int too large",
    ),
    "another rank": ({"rank": "4"}, "has rank 4 in its metadata, but tensors of rank 3"),
    "texture without one": ({"texture": "true"}, "metadata about texture that do not match"),
    "a module too many": (
        {"modules": json.dumps(["blocks.0.to_q", "conv_out", "proj_in", "proj_out"])},
        "is incomplete: 1 of 4 modules lack a factor, first 'proj_out'",
    ),
    "a module too few": (
        {"modules": json.dumps(["blocks.0.to_q", "conv_out"])},
        r"no HYPIR file has \(2 of 6\), first 'lora_unet_proj_in.lora_down.weight'",
    ),
}


@pytest.mark.parametrize("damage", METADATA)
def test_damaged_metadata_are_refused_in_their_own_words(damage, tmp_path):
    metadata, sentence = METADATA[damage]
    write_native(tmp_path / "w.safetensors", False, {}, metadata)
    with pytest.raises(ValueError, match="^w.safetensors .*" + sentence):
        read_weights(tmp_path / "w.safetensors")


TENSORS = {
    "a factor missing": (
        {"lora_unet_conv_out.lora_up.weight": None},
        "is incomplete: 1 of 3 modules lack a factor, first 'conv_out'",
    ),
    "an alpha": (
        {"lora_unet_conv_out.alpha": torch.tensor(1.0)},
        r"no HYPIR file has \(1 of 7\), first 'lora_unet_conv_out.alpha'",
    ),
    "factors that do not multiply": (
        {"lora_unet_conv_out.lora_up.weight": torch.zeros(4, 5, 1, 1)},
        r"same rank \(3\) in all modules, but 'conv_out' has up \(4, 5, 1, 1\)",
    ),
    "a NaN": (
        {"lora_unet_conv_out.lora_up.weight": torch.full((4, 3, 1, 1), float("nan"))},
        "NaN or infinite values in 1 of 11 tensors, first 'lora_unet_conv_out.lora_up.weight'",
    ),
    "a texture tensor missing": (
        {TEXTURE_PREFIX + "out.bias": None},
        "texture MLP lacks 1 of 5 tensors, first 'out.bias'",
    ),
    "a texture tensor more": (
        {TEXTURE_PREFIX + "more": torch.zeros(1)},
        "texture MLP has 1 unknown tensors, first 'more'",
    ),
    "a number for a texture tensor": (
        {TEXTURE_PREFIX + "out.bias": torch.tensor(0.0)},
        "texture MLP tensor 'out.weight' must have shape",
    ),
    "a NaN in the texture": (
        {TEXTURE_PREFIX + "out.bias": torch.full((16,), float("nan"))},
        "texture MLP tensor 'out.bias' contains NaN",
    ),
}


@pytest.mark.parametrize("damage", TENSORS)
def test_damaged_tensors_of_ours_are_refused_in_their_own_words(damage, tmp_path):
    tensors, sentence = TENSORS[damage]
    write_native(tmp_path / "w.safetensors", True, tensors, {})
    with pytest.raises(ValueError, match="^w.safetensors.*" + sentence):
        read_weights(tmp_path / "w.safetensors")


def test_a_texture_that_the_metadata_deny_is_refused(tmp_path):
    write_native(tmp_path / "w.safetensors", True, {}, {})
    read_weights(tmp_path / "w.safetensors")
    for denied in ("false", "yes"):
        write_native(tmp_path / "w.safetensors", True, {}, {"texture": denied})
        with pytest.raises(
            ValueError, match=r"^w.safetensors has metadata about texture that do not match"
        ):
            read_weights(tmp_path / "w.safetensors")
