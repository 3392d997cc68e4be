"""Encoder files: round trip, names of diffusers and the host, and whose decoder it was."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors import safe_open
from safetensors.torch import save_file
from torch.testing import assert_close

from hypir.encoder import (
    check_encoder_fits,
    fingerprint,
    host_names,
    read_encoder,
    same_decoder,
    save_encoder,
)

State = dict[str, torch.Tensor]


def kl(seed: int = 0, **changes) -> AutoencoderKL:
    config = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 16],
        "layers_per_block": 2,
        "norm_num_groups": 4,
    }
    return seeded(seed, lambda: AutoencoderKL(**config | changes))


def tiny(seed: int = 0) -> AutoencoderTiny:
    widths = {f"{part}_block_out_channels": (8, 8, 8, 8) for part in ("encoder", "decoder")}
    return seeded(seed, lambda: AutoencoderTiny(**widths))


def seeded(seed: int, make):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def kl_state(seed: int = 0, **changes) -> State:
    return host_names(kl(seed, **changes).state_dict())


@pytest.fixture(scope="module")
def state() -> State:
    return kl_state()


@pytest.fixture
def path(state, tmp_path):
    save_encoder(state, tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


@pytest.mark.parametrize("quant", [True, False])
def test_names_of_an_autoencoder_are_those_diffusers_converts_back(quant):
    model = kl(use_quant_conv=quant, use_post_quant_conv=quant)
    theirs = model.state_dict()
    named = host_names(theirs)
    assert len(named) == len(theirs)
    prefixed = {f"first_stage_model.{key}": value for key, value in named.items()}
    back = convert_ldm_vae_checkpoint(prefixed, dict(model.config))
    for key, value in theirs.items():
        assert_close(back[key].reshape(value.shape), value, rtol=0, atol=0)
    assert back.keys() == theirs.keys()


def test_names_of_a_small_autoencoder_count_the_decoders_clamp():
    # the original TAESD: both halves are nn.Sequential, and the decoder's first layer is a clamp
    model = tiny()
    encoder = torch.nn.Sequential(*model.encoder.layers).state_dict()
    decoder = torch.nn.Sequential(torch.nn.Identity(), *model.decoder.layers).state_dict()
    expected = {f"taesd_encoder.{key}": value for key, value in encoder.items()}
    expected |= {f"taesd_decoder.{key}": value for key, value in decoder.items()}
    assert_close(host_names(model.state_dict()), expected, rtol=0, atol=0)


def test_the_attention_becomes_convolutions(state):
    for name in ("q", "k", "v", "proj_out"):
        assert state[f"encoder.mid.attn_1.{name}.weight"].shape == (16, 16, 1, 1)
        assert state[f"encoder.mid.attn_1.{name}.bias"].shape == (16,)


@pytest.mark.parametrize("make", [kl, tiny])
def test_names_of_the_host_stay_as_they_are(make):
    named = host_names(make().state_dict())
    assert_close(host_names(named), named, rtol=0, atol=0)


@pytest.mark.parametrize("make", [kl, tiny])
def test_a_file_holds_the_encoder_and_nothing_else(make, tmp_path):
    whole = make().state_dict()
    save_encoder(whole, tmp_path / "e.safetensors")
    encoder = read_encoder(tmp_path / "e.safetensors")
    prefixes = ("encoder.", "quant_conv.")
    expected = host_names({k: v for k, v in whole.items() if k.startswith(prefixes)})
    assert_close(dict(encoder.tensors), expected, rtol=0, atol=0)
    check_encoder_fits("e", encoder, host_names(whole))


def test_a_trained_encoder_still_fits_the_autoencoder_it_came_from(state, tmp_path):
    trained = {k: v + 0.1 if k.startswith("encoder.") else v for k, v in state.items()}
    save_encoder(trained, tmp_path / "e.safetensors")
    check_encoder_fits("e", read_encoder(tmp_path / "e.safetensors"), state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_fingerprint_survives_a_change_of_dtype(dtype, state):
    cast = {k: v.to(dtype) for k, v in state.items()}
    assert same_decoder(fingerprint(state), fingerprint(cast))
    there_and_back = {k: v.to(torch.bfloat16).to(torch.float16) for k, v in state.items()}
    assert same_decoder(fingerprint(state), fingerprint(there_and_back))


def test_the_fingerprint_is_the_same_under_both_names_and_in_any_order():
    theirs = kl().state_dict()
    shuffled = dict(reversed(host_names(theirs).items()))
    assert fingerprint(theirs) == fingerprint(shuffled)


@pytest.mark.parametrize("make", [kl, tiny])
def test_the_fingerprint_tells_decoders_of_one_shape_apart(make):
    a, b = (fingerprint(make(seed).state_dict()) for seed in (0, 1))
    assert not same_decoder(a, b)
    assert same_decoder(a, a)


def test_the_fingerprint_is_of_the_decoder_alone(state):
    other = {k: v * 2 if k.startswith(("encoder.", "quant_conv.")) else v for k, v in state.items()}
    assert fingerprint(other) == fingerprint(state)
    assert not same_decoder(fingerprint(state), "")
    assert not same_decoder("", "")


def test_half_of_an_autoencoder_makes_no_file(state, tmp_path):
    for missing in ("encoder", "decoder"):
        prefixes = ("encoder.", "quant_conv.") if missing == "encoder" else ("decoder.", "post_")
        rest = {k: v for k, v in state.items() if not k.startswith(prefixes)}
        with pytest.raises(ValueError, match=f"but this one has no {missing}"):
            save_encoder(rest, tmp_path / "e.safetensors")
    assert list(tmp_path.iterdir()) == []


def rewrite(path, tensors: dict, metadata: dict) -> None:
    """Replaces some tensors and metadata of a file; None removes an entry."""
    with safe_open(path, framework="pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()} | tensors
        told = file.metadata() | metadata
    save_file(
        {k: v for k, v in held.items() if v is not None},
        path,
        {k: v for k, v in told.items() if v is not None},
    )


NAN = torch.full((4,), float("nan"))
DAMAGE = {
    "no mark": ({}, {"hypir.encoder": None}, "is not a HYPIR encoder: its metadata lack"),
    "a later layout": ({}, {"hypir.encoder": "2"}, "has layout '2', but this version reads '1'"),
    "no fingerprint": ({}, {"hypir.decoder_fingerprint": None}, r"damaged hypir.\* metadata"),
    "an empty one": ({}, {"hypir.decoder_fingerprint": ""}, r"damaged hypir.\* .*fingerprint"),
    "a word in it": ({}, {"hypir.decoder_fingerprint": "1.0 x"}, r"damaged .*convert string"),
    "no number in it": ({}, {"hypir.decoder_fingerprint": "1 nan"}, "damaged .*fingerprint"),
    "a decoder's tensor": (
        {"decoder.conv_in.bias": torch.zeros(4)},
        {},
        "has 1 tensors that belong to no encoder, first 'decoder.conv_in.bias'",
    ),
    "a stranger": ({"encoder_step": NAN}, {}, "belong to no encoder, first 'encoder_step'"),
    "a NaN": ({"encoder.conv_in.bias": NAN}, {}, "NaN or .* in 1 of .* first 'encoder.conv_in.bia"),
    "a single NaN": ({"encoder.one": NAN[0]}, {}, "NaN or infinite values in 1 of"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_its_own_words(damage, path):
    tensors, metadata, sentence = DAMAGE[damage]
    rewrite(path, tensors, metadata)
    with pytest.raises(ValueError, match=f"^encoder.safetensors .*{sentence}"):
        read_encoder(path)


MISFITS = {
    "a tensor missing": (
        {"encoder.conv_in.bias": None},
        r"lacks 1 of \d+ .*'encoder.conv_in.bias'",
    ),
    "a tensor more": (
        {"encoder.conv_in.more": torch.zeros(1)},
        r"has 1 unknown of \d+ encoder tensors, first 'encoder.conv_in.more'",
    ),
    "another shape": (
        {"encoder.conv_in.bias": torch.zeros(9)},
        r"1 of \d+ tensors have another shape, first 'encoder.conv_in.bias' with \(9,\) instead "
        r"of \(8,\)",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_file_that_does_not_fit_is_refused_in_its_own_words(misfit, path, state):
    tensors, sentence = MISFITS[misfit]
    rewrite(path, tensors, {})
    with pytest.raises(ValueError, match=f"^e does not fit this VAE: .*{sentence}.*use the VAE"):
        check_encoder_fits("e", read_encoder(path), state)


def test_an_autoencoder_of_the_same_shapes_is_refused(path):
    with pytest.raises(
        ValueError, match=r"^e was trained with a different decoder than that of this VAE"
    ):
        check_encoder_fits("e", read_encoder(path), kl_state(seed=1))


def test_an_autoencoder_of_another_kind_is_refused(path):
    with pytest.raises(ValueError, match=r"^e does not fit this VAE: it lacks \d+ of \d+ encoder"):
        check_encoder_fits("e", read_encoder(path), host_names(tiny().state_dict()))
    sixteen = kl_state(latent_channels=16)
    with pytest.raises(ValueError, match=r"^e does not fit this VAE: \d+ of \d+ .* another shape"):
        check_encoder_fits("e", read_encoder(path), sixteen)


def test_a_lora_is_no_encoder(tmp_path):
    save_file({"lora_unet_conv_out.lora_up.weight": torch.zeros(1)}, tmp_path / "l.safetensors")
    with pytest.raises(ValueError, match=r"^l.safetensors is not a HYPIR encoder: .*'lora_unet"):
        read_encoder(tmp_path / "l.safetensors")
