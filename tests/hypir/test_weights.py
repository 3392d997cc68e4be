"""Weight files that are sound: read, converted, written, described."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from hypir.priors import PRIORS
from hypir.texture import init_texture_mlp
from hypir.weights import HypirWeights, check_shapes, read_weights, save_weights

from .conftest import RANK

METADATA = {  # the contract of our layout
    "hypir.format",
    "hypir.prior",
    "hypir.prediction",
    "hypir.timestep",
    "hypir.coefficient_timestep",
    "hypir.input_scale",
    "hypir.rank",
    "hypir.modules",
    "hypir.texture",
    "hypir.conditions",
}
MODELSPEC = {"sai_model_spec", "architecture", "implementation", "title"}  # ModelSpec 1.0.0: MUST


def small_weights(name: str = "sd2", texture: bool = False) -> HypirWeights:
    """A linear layer, a 3x3 and a 1x1 convolution, rank 3."""
    generator = torch.Generator().manual_seed(6)
    prior = PRIORS[name]
    shapes = {"blocks.0.to_q": ((6, 3), (3, 5)), "conv_out": ((4, 3, 1, 1), (3, 5, 3, 3))}
    shapes["proj_in"] = ((5, 3, 1, 1), (3, 7, 1, 1))
    return HypirWeights(
        prior=prior,
        lora={
            module: tuple(torch.randn(shape, generator=generator) for shape in pair)
            for module, pair in shapes.items()
        },
        rank=3,
        timestep=prior.timestep - 10,
        coefficient_timestep=prior.timestep + 10,
        input_scale=prior.input_scale * 1.01,
        texture=init_texture_mlp(16, hidden=8) if texture else None,
        conditions=dict(prior.conditions),
    )


def check_equal(a: HypirWeights, b: HypirWeights) -> None:
    assert a.lora.keys() == b.lora.keys()
    for module, factors in a.lora.items():
        assert all(map(torch.equal, factors, b.lora[module]))
    for field in ("prior", "rank", "timestep", "coefficient_timestep", "input_scale"):
        assert getattr(a, field) == getattr(b, field)
    assert dict(a.conditions) == dict(b.conditions)
    assert (a.texture is None) == (b.texture is None)
    for key, value in (a.texture or {}).items():
        assert torch.equal(value, b.texture[key])


def test_a_file_of_peft_is_a_public_file(public_lora, tmp_path):
    torch.save(public_lora, tmp_path / "HYPIR_sd2.pth")
    weights = read_weights(tmp_path / "HYPIR_sd2.pth")
    assert (weights.prior, weights.rank, weights.source) == (PRIORS["sd2"], RANK, "public")
    # HYPIR's released configuration: model_t = coeff_t = 200, the latent as it is
    assert (weights.timestep, weights.coefficient_timestep, weights.input_scale) == (200, 200, 1.0)
    assert weights.texture is None
    assert 2 * len(weights.lora) == len(public_lora) == 514
    for module, (up, down) in weights.lora.items():
        assert torch.equal(up, public_lora[f"{module}.lora_B.default.weight"])
        assert torch.equal(down, public_lora[f"{module}.lora_A.default.weight"])


@pytest.mark.parametrize("form", ["unet.{}.lora_{}.weight", "base_model.model.{}.lora_{}.weight"])
def test_the_names_peft_saves_under_are_read_too(form, public_lora, tmp_path):
    renamed = {
        form.format(*key.removesuffix(".default.weight").split(".lora_")): value
        for key, value in public_lora.items()
    }
    save_file(renamed, tmp_path / "renamed.safetensors")
    assert len(read_weights(tmp_path / "renamed.safetensors").lora) == 257


def test_trained_parameters_come_back_as_plain_tensors(public_lora, tmp_path):
    torch.save({k: torch.nn.Parameter(v) for k, v in public_lora.items()}, tmp_path / "p.pth")
    lora = read_weights(tmp_path / "p.pth").lora
    assert not any(factor.requires_grad for pair in lora.values() for factor in pair)


def test_public_to_safetensors_and_back_keeps_every_factor(public_lora, tmp_path):
    torch.save(public_lora, tmp_path / "public.pth")
    public = read_weights(tmp_path / "public.pth")
    save_weights(public, tmp_path / "ours.safetensors")
    ours = read_weights(tmp_path / "ours.safetensors")
    check_equal(public, ours)
    assert ours.source == "hypir"
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        names = {  # as kohya-ss names a LoRA of diffusers modules
            f"lora_unet_{module.replace('.', '_')}.lora_{part}.weight"
            for module in public.lora
            for part in ("up", "down")
        }
        assert set(file.keys()) == names


def test_the_metadata_are_those_of_the_contract(tmp_path):
    save_weights(small_weights("flux"), tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        metadata = file.metadata()
    spec = {key.split(".", 1)[1] for key in metadata if key.startswith("modelspec.")}
    assert spec >= MODELSPEC
    assert {key for key in metadata if key.startswith("hypir.")} == METADATA
    assert metadata["hypir.format"] == "1"
    assert (metadata["hypir.prior"], metadata["hypir.prediction"]) == ("flux", "flow")
    assert metadata["hypir.timestep"] == "354"
    assert metadata["hypir.coefficient_timestep"] == "374"
    assert float(metadata["hypir.input_scale"]) == small_weights("flux").input_scale
    assert json.loads(metadata["hypir.modules"]) == ["blocks.0.to_q", "conv_out", "proj_in"]
    assert json.loads(metadata["hypir.conditions"]) == {"guidance": 3.5}
    assert (metadata["hypir.rank"], metadata["hypir.texture"]) == ("3", "false")


@pytest.mark.parametrize("texture", [False, True], ids=["plain", "texture"])
@pytest.mark.parametrize("name", PRIORS)
def test_what_is_written_is_read(name, texture, tmp_path):
    weights = small_weights(name, texture)
    save_weights(weights, tmp_path / "w.safetensors")
    check_equal(weights, read_weights(tmp_path / "w.safetensors"))
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        loras = [key for key in file.keys() if not key.startswith("hypir.texture.")]
    # the names that the host's own loader has for modules of diffusers
    prefixes = {"sd3": "lora_transformer_", "flux": "lora_transformer_", "z_image": "lycoris_"}
    prefix = prefixes.get(name, "lora_unet_")
    assert all(key.startswith(prefix) for key in loras)


def test_half_factors_stay_half(public_lora, tmp_path):
    torch.save({k: v.half() for k, v in public_lora.items()}, tmp_path / "half.pth")
    weights = read_weights(tmp_path / "half.pth")
    save_weights(weights, tmp_path / "half.safetensors")
    check_equal(weights, read_weights(tmp_path / "half.safetensors"))
    assert next(iter(weights.lora.values()))[0].dtype == torch.float16


def test_the_shape_of_a_module_is_that_of_its_change():
    weights = small_weights()
    for module, (up, down) in weights.lora.items():
        delta = torch.einsum("or,r...->o...", up.flatten(1), down)
        assert weights.shape(module) == tuple(delta.shape)


def test_a_model_that_has_every_module_in_its_shape_fits():
    weights = small_weights()
    shapes = {"blocks.0.to_q": (6, 5), "conv_out": (4, 5, 3, 3), "proj_in": (5, 7), "more": (1,)}
    check_shapes("w", weights, shapes)  # a 1x1 convolution is a linear layer
    with pytest.raises(
        ValueError, match=r"^w adapts 3 modules .* lacks 1 of them, first 'proj_in'"
    ):
        check_shapes("w", weights, {k: v for k, v in shapes.items() if k != "proj_in"})
    sentence = r"1 of 3 modules have another shape, first 'conv_out' with \(4, 5, 3, 3\) "
    with pytest.raises(
        ValueError, match=sentence + r"instead of \(4, 6, 3, 3\); use the base model"
    ):
        check_shapes("w", weights, shapes | {"conv_out": (4, 6, 3, 3)})


def test_the_hosts_own_reader_can_take_the_place_of_ours(public_lora, tmp_path):
    path = tmp_path / "x.any"
    path.touch()
    asked = []

    def load(name):
        asked.append(name)
        return public_lora, None

    weights = read_weights(path, load)
    assert asked == [str(path)]
    assert_close(weights.lora["conv_out"][0], public_lora["conv_out.lora_B.default.weight"])
