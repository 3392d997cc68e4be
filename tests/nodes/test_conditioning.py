"""Prompt and texture richness as CONDITIONING."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS, SD2
from hypir.texture import embed_richness, init_texture_mlp, measure_richness
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_parity import RANK

WIDTH = 1024


def random_mlp(width: int) -> dict[str, torch.Tensor]:
    """An MLP as trained: its last layer is not zero."""
    mlp = init_texture_mlp(width)
    generator = torch.Generator().manual_seed(4)
    mlp["out.weight"] = torch.randn(mlp["out.weight"].shape, generator=generator) / 4
    return mlp


@pytest.fixture(scope="module")
def mlp():
    return random_mlp(WIDTH)


@pytest.fixture(scope="module")
def textured(host, sd2, mlp):
    """The small SD2 model with weights that know the texture."""
    factors = small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    weights = HypirWeights(SD2, factors, RANK, 200, 200, 1.0, texture=mlp)
    save_weights(weights, host.models / "loras" / "textured.safetensors")
    return host.nodes["HYPIRLoadLora"].execute(sd2, "textured.safetensors", 1.0).result[0]


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 16, 48, generator=torch.Generator().manual_seed(5))}


def test_without_clip_and_text_it_is_the_zero_token(run, textured):
    ((tokens, extra),) = run("HYPIRConditioning", textured, texture={"texture": "off"})
    assert tokens.shape == (1, 1, WIDTH) and not tokens.any() and extra == {}


def test_a_text_without_clip_is_refused(run, textured):
    with pytest.raises(ValueError, match="a prompt needs a CLIP"):
        run("HYPIRConditioning", textured, text="a cat", texture={"texture": "off"})


@pytest.mark.parametrize("texture", [None, {}, {"texture": "loud"}])
def test_a_missing_choice_gets_our_sentence(run, textured, texture):
    with pytest.raises(ValueError, match="texture must be one of off, set, match, map"):
        run("HYPIRConditioning", textured, texture=texture)


@pytest.mark.parametrize(
    ("texture", "words"),
    [
        ({"texture": "set"}, r"'set' needs richness.*\"texture.richness\""),
        ("set", "'set' needs richness"),
        ({"texture": "set", "richness": float("nan")}, "needs a finite number, got nan"),
        ({"texture": "match", "offset": 0.0}, "'match' needs image"),
        ({"texture": "match"}, "'match' needs image and offset"),
        ({"texture": "map"}, "'map' needs mask"),
        ({"texture": "map", "mask": torch.zeros(1, 0, 8)}, "not empty, got .1, 0, 8"),
    ],
)
def test_a_part_that_a_choice_lacks_is_named(run, textured, texture, words):
    with pytest.raises(ValueError, match=words):
        run("HYPIRConditioning", textured, texture=texture)


def test_maps_are_one_or_as_many_as_images(run, textured, latent):
    texture = {"texture": "map", "mask": torch.full((3, 128, 384), 0.5)}
    positive = run("HYPIRConditioning", textured, texture=texture)
    with pytest.raises(ValueError, match=r"one per image \(1\), got 3"):
        run("HYPIRRestore", textured, positive, latent)
    three = {"samples": latent["samples"].repeat(3, 1, 1, 1)}
    assert run("HYPIRRestore", textured, positive, three)["samples"].shape[0] == 3


def test_set_appends_the_token_of_the_richness(run, textured, mlp):
    texture = {"texture": "set", "richness": 0.7}
    ((tokens, _),) = run("HYPIRConditioning", textured, texture=texture)
    assert tokens.shape == (1, 2, WIDTH) and not tokens[:, :1].any()
    assert_close(tokens[:, 1:], embed_richness(torch.tensor([0.7]), mlp))


def test_match_measures_the_example_and_adds_the_offset(run, textured, mlp, photo):
    texture = {"texture": "match", "image": photo, "offset": -0.1}
    ((tokens, _),) = run("HYPIRConditioning", textured, texture=texture)
    assert_close(tokens[:, 1:], embed_richness(measure_richness(photo) - 0.1, mlp))


def test_measuring_a_large_example_shows_its_progress(run, textured):
    import comfy.utils

    told = []
    comfy.utils.set_progress_bar_global_hook(
        lambda done, total, *_, **__: told.append(done / total)
    )
    texture = {"texture": "match", "image": torch.rand(1, 1500, 1500, 3), "offset": 0.0}
    run("HYPIRConditioning", textured, texture=texture)
    comfy.utils.set_progress_bar_global_hook(None)
    assert len(told) > 1 and told == sorted(told) and told[-1] == 1.0


def test_a_noisy_example_is_warned_about(run, textured, photo, caplog):
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    noisy = (photo + 0.2 * noise).clamp(0, 1)
    run("HYPIRConditioning", textured, texture={"texture": "match", "image": noisy, "offset": 0.0})
    assert "looks noisy or blurred" in caplog.text


def test_a_painted_map_gives_every_tile_the_token_of_its_part(run, textured, mlp, latent):
    painted = torch.zeros(1, 128, 384)
    painted[:, :, 128:256] = 0.5
    painted[:, :, 256:] = 1.0
    positive = run("HYPIRConditioning", textured, texture={"texture": "map", "mask": painted})
    seen = []

    def watch(apply_model, arguments):
        seen.append(arguments["c"]["c_crossattn"][:, -1:].clone())
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    watched = textured.clone()
    watched.set_model_unet_function_wrapper(watch)
    run("HYPIRRestore", watched, positive, latent, tile_size=128, overlap=0)
    want = embed_richness(torch.tensor([0.0, 0.5, 1.0]), mlp)
    assert_close(torch.cat(seen), want, atol=1e-5, rtol=1e-5)


def test_a_painted_map_keeps_its_token_when_a_prompt_is_appended(run, host, textured, mlp, latent):
    painted = torch.zeros(1, 128, 384)
    painted[:, :, 128:256] = 0.5
    painted[:, :, 256:] = 1.0
    positive = run("HYPIRConditioning", textured, texture={"texture": "map", "mask": painted})
    place = positive[0][0].shape[1] - 1
    words = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(2))
    both = host.core["ConditioningConcat"]().concat(positive, [[words, {}]])[0]
    seen = []

    def watch(apply_model, arguments):
        seen.append(arguments["c"]["c_crossattn"].clone())
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    watched = textured.clone()
    watched.set_model_unet_function_wrapper(watch)
    run("HYPIRRestore", watched, both, latent, tile_size=128, overlap=0)
    tokens = torch.cat(seen)
    want = embed_richness(torch.tensor([0.0, 0.5, 1.0]), mlp)
    assert_close(tokens[:, place : place + 1], want, atol=1e-5, rtol=1e-5)
    assert_close(tokens[:, place + 1 :], words.expand(3, -1, -1))


def test_memory_is_asked_for_what_a_call_takes_and_no_more(run, textured, latent, asked):
    def most(texture: dict, **options) -> float:
        asked.clear()
        positive = run("HYPIRConditioning", textured, texture=texture)
        run("HYPIRRestore", textured, positive, latent, **options)
        return max(asked)

    flat = {"texture": "set", "richness": 0.5}
    painted = {"texture": "map", "mask": torch.full((1, 128, 384), 0.5)}
    one = most(flat, tile_size=128, tile_batch=1)
    assert most(painted, tile_size=128, tile_batch=64) == one, "a map's tiles go one by one"
    assert most(flat, tile_batch=64) == most(flat, tile_batch=1) > one, "there is one tile only"


def test_a_painted_map_of_another_size_is_refused(run, textured, latent):
    painted = {"texture": "map", "mask": torch.ones(1, 100, 100)}
    positive = run("HYPIRConditioning", textured, texture=painted)
    with pytest.raises(ValueError, match=r"map must have the size of the image, got 100x100"):
        run("HYPIRRestore", textured, positive, latent)


def test_the_richness_steers_the_result(run, textured, latent):
    low, high = (
        run(
            "HYPIRRestore",
            textured,
            run("HYPIRConditioning", textured, texture={"texture": "set", "richness": r}),
            latent,
        )["samples"]
        for r in (0.2, 0.9)
    )
    assert (low - high).abs().max() > 1e-3


def test_a_flat_map_is_the_same_as_one_value_for_all(run, textured, latent):
    flat = {"texture": "map", "mask": torch.full((1, 128, 384), 0.25)}
    one = {"texture": "set", "richness": 0.25}
    options = {"tile_size": 128, "overlap": 64}
    got, want = (
        run(
            "HYPIRRestore",
            textured,
            run("HYPIRConditioning", textured, texture=t),
            latent,
            **options,
        )["samples"]
        for t in (flat, one)
    )
    assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("choice", ["set", "match", "map"])
def test_weights_without_texture_name_the_node_that_does_it(run, sd2, photo, choice):
    texture = {"texture": choice, "richness": 0.5, "image": photo, "offset": 0.0, "mask": photo}
    with pytest.raises(
        ValueError, match=r"not trained with texture richness.* HYPIR Match Texture"
    ):
        run("HYPIRConditioning", sd2, texture=texture)


def test_texture_weights_of_another_width_are_refused(host, run, sd2):
    factors = small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    weights = HypirWeights(SD2, factors, RANK, 200, 200, 1.0, texture=random_mlp(64))
    save_weights(weights, host.models / "loras" / "narrow.safetensors")
    with pytest.raises(ValueError, match="tokens of width 64, but the model takes 1024"):
        run("HYPIRLoadLora", sd2, "narrow.safetensors", 1.0)


def test_a_clip_reads_the_prompt_and_the_token_comes_after_it(run, host, textured, mlp):
    class Reader:
        """What the node asks of the host's CLIP: tokens of seven words."""

        def tokenize(self, text):
            return text.split()

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.full((1, len(tokens), WIDTH), 0.5), {"pooled_output": None}]]

    texture = {"texture": "set", "richness": 0.4}
    ((tokens, extra),) = run("HYPIRConditioning", textured, Reader(), "a cat sleeps", texture)
    assert tokens.shape == (1, 4, WIDTH) and (tokens[:, :3] == 0.5).all()
    assert_close(tokens[:, 3:], embed_richness(torch.tensor([0.4]), mlp))
    assert "pooled_output" in extra


@pytest.mark.parametrize("name", ["sd3", "flux", "z_image"])
def test_transformers_take_the_texture_token_as_well(run, host, name):
    make, targets = small_models.NETWORKS[name]
    network = make()
    model = small_models.host_model(dict(network.state_dict()))
    prior = PRIORS[name]
    factors = small_models.lora_for(network, targets, RANK)
    t = prior.timestep
    save_weights(
        HypirWeights(prior, factors, RANK, t, t, prior.input_scale, texture=random_mlp(64)),
        host.models / "loras" / f"textured-{name}.safetensors",
    )
    patched = run("HYPIRLoadLora", model, f"textured-{name}.safetensors", 1.0)
    latent = {"samples": torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(1))}
    results = []
    for texture in (
        {"texture": "off"},
        {"texture": "set", "richness": 0.8},
        {"texture": "map", "mask": torch.full((1, 128, 256), 0.8)},
    ):
        positive = run("HYPIRConditioning", patched, texture=texture)
        assert ("pooled_output" in positive[0][1]) == (prior.pooled_width > 0)
        assert positive[0][1].get("guidance") == (3.5 if name == "flux" else None)
        results.append(run("HYPIRRestore", patched, positive, latent, tile_size=128)["samples"])
    assert (results[0] - results[1]).abs().max() > 1e-4
    assert_close(results[2], results[1], atol=1e-4, rtol=1e-4)
