"""Other nodes between ours: a tile is no step of a sampler.

With tiles that do not overlap, a picture in tiles must be its tiles restored one by one: whatever a
node carries over from tile to tile would show.
"""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from . import small_models
from .test_parity import host_model_of

TILED = {"tile_size": 128, "overlap": 0}


def latent_with_a_bird(channels: int = 4):
    """Smooth tiles, in which a cache finds nothing new, and one thing in the third."""
    generator = torch.Generator().manual_seed(2)
    samples = torch.randn(1, channels, 1, 1, generator=generator).expand(-1, -1, 16, 48) * 3
    samples = samples + 0.02 * torch.randn(1, channels, 16, 48, generator=generator)
    samples[..., 5:8, 35:39] += 6
    return samples


@pytest.fixture
def with_cfg(run, host, prompt):
    """Through SamplerCustom, with a negative prompt."""
    negative = [[prompt[0][0].flip(1), {}]]

    def sample(model, samples, **options):
        sampler, sigmas = run("HYPIRSampler", model, **options)
        node = host.core["SamplerCustom"]
        latent = {"samples": samples}
        made = node.execute(model, False, 0, 3.0, prompt, negative, sampler, sigmas, latent)
        return made.result[0]["samples"]

    return sample


def check_tiles(sample, model, **options):
    """`sample` of a picture in tiles is that of its tiles one by one."""
    samples = latent_with_a_bird()
    tiled = sample(model, samples, **TILED, **options)
    alone = [sample(model, samples[..., x : x + 16], **TILED) for x in (0, 16, 32)]
    assert_close(tiled, torch.cat(alone, dim=-1), atol=1e-4, rtol=1e-4)


NODES = {
    "EasyCache": {
        "reuse_threshold": 0.2,
        "start_percent": 0.15,
        "end_percent": 0.95,
        "verbose": False,
    },
    "LazyCache": {
        "reuse_threshold": 0.2,
        "start_percent": 0.15,
        "end_percent": 0.95,
        "verbose": False,
    },
    "APG": {"eta": 1.0, "norm_threshold": 5.0, "momentum": 0.7},
    "VideoLinearCFGGuidance": {"min_cfg": 1.0},
    "HyperTile": {"tile_size": 64, "swap_size": 2, "max_depth": 1, "scale_depth": False},
    "TomePatchModel": {"ratio": 0.3},
    "SelfAttentionGuidance": {"scale": 0.5, "blur_sigma": 2.0},
    "PerturbedAttentionGuidance": {"scale": 3.0},
    "RescaleCFG": {"multiplier": 0.7},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
}


@pytest.mark.parametrize("tile_batch", [0, 1])
@pytest.mark.parametrize("name", NODES)
def test_tiles_are_as_if_alone_under_other_nodes(sd2, patched, with_cfg, name, tile_batch):
    check_tiles(with_cfg, patched(name, sd2, **NODES[name]), tile_batch=tile_batch)


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_cache_changes_nothing(run, sd2, prompt, patched, name):
    latent = {"samples": latent_with_a_bird()}
    want = run("HYPIRRestore", sd2, prompt, latent, **TILED)["samples"]
    got = run("HYPIRRestore", patched(name, sd2, **NODES[name]), prompt, latent, **TILED)["samples"]
    assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["HyperTile", "TomePatchModel"])
def test_drawn_numbers_are_the_same_every_time_and_leave_the_global_state(
    run, sd2, prompt, patched, name
):
    model, latent = patched(name, sd2, **NODES[name]), {"samples": latent_with_a_bird()}
    state = torch.get_rng_state()
    first = run("HYPIRRestore", model, prompt, latent, **TILED)["samples"]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(run("HYPIRRestore", model, prompt, latent, **TILED)["samples"], first)


@pytest.mark.parametrize("kind", ["sd3", "flux", "z_image"])
@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_a_cache_changes_nothing_on_any_network(run, host, patched, name, kind):
    network = small_models.NETWORKS[kind][0]()
    model = host_model_of(host, kind, network)
    widths = host.pack("nodes.host.model").text_widths(model)
    positive = [[torch.ones(1, 3, widths.token), {"pooled_output": torch.ones(1, widths.pooled)}]]
    latent = {"samples": latent_with_a_bird(model.model.latent_format.latent_channels)}
    want = run("HYPIRRestore", model, positive, latent, **TILED, tile_batch=1)["samples"]
    options = {**NODES[name], "start_percent": 0.0, "end_percent": 1.0}
    cached = patched(name, model, **options)
    got = run("HYPIRRestore", cached, positive, latent, **TILED, tile_batch=1)["samples"]
    assert_close(got, want, atol=1e-4, rtol=1e-4)


def cached_in_a_closure(model):
    """A third-party cache: near enough to the last input, the last change is used again."""
    last = None

    def wrapper(apply, arguments):
        nonlocal last
        x = arguments["input"]
        if last is not None and (x - last[0]).abs().mean() < 1.0:
            return x + last[1]
        out = apply(x, arguments["timestep"], **arguments["c"])
        last = (x, out - x)
        return out

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def cached_on_an_object(model):
    class Cache:
        def __init__(self):
            self.state = {"calls": 0}

        def __call__(self, executor, x, *args, **options):
            if "change" in self.state:
                return x + self.state["change"]
            self.state["calls"] += 1
            out = executor(x, *args, **options)
            self.state["change"] = out - x
            return out

    model = model.clone()
    model.add_wrapper_with_key("diffusion_model", "cache", Cache())
    return model


def cached_on_the_network(model):
    model = model.clone()
    network = model.model.diffusion_model

    def wrapper(executor, *args, **options):
        if not hasattr(network, "kept_output"):
            network.kept_output = executor(*args, **options)
        return network.kept_output

    model.add_wrapper_with_key("apply_model", "cache", wrapper)
    return model


def averaged_guidance(model):
    average = []

    def keep(arguments):
        average[:] = [
            arguments["denoised"]
            if not average
            else (0.5 * average[0] + 0.5 * arguments["denoised"])
        ]
        return average[0]

    model = model.clone()
    model.set_model_sampler_post_cfg_function(keep)
    return model


THIRD_PARTY = (
    cached_in_a_closure,
    cached_on_an_object,
    cached_on_the_network,
    averaged_guidance,
)


@pytest.mark.parametrize("kind", THIRD_PARTY, ids=lambda kind: kind.__name__)
def test_what_a_wrapper_keeps_of_a_tile_is_taken_back_before_the_next(run, sd2, prompt, kind):
    samples = latent_with_a_bird()
    tiled = run("HYPIRRestore", kind(sd2), prompt, {"samples": samples}, **TILED, tile_batch=1)
    for x in (0, 16, 32):
        vars(sd2.model.diffusion_model).pop("kept_output", None)  # a run may keep it to its end
        part = {"samples": samples[..., x : x + 16]}
        alone = run("HYPIRRestore", kind(sd2), prompt, part)["samples"]
        assert_close(tiled["samples"][..., x : x + 16], alone, atol=1e-4, rtol=1e-4)
    vars(sd2.model.diffusion_model).pop("kept_output", None)


def test_a_cache_that_cannot_be_taken_back_is_refused(run, sd2, prompt):
    def wrapper(apply, arguments):
        global _hidden
        if _hidden is None:
            _hidden = apply(arguments["input"], arguments["timestep"], **arguments["c"])
        return _hidden

    model = sd2.clone()
    model.set_model_unet_function_wrapper(wrapper)
    latent = {"samples": latent_with_a_bird()}
    with pytest.raises(ValueError, match="skipped the network"):
        run("HYPIRRestore", model, prompt, latent, **TILED, tile_batch=1)


_hidden = None


def test_a_wrapper_that_only_watches_keeps_what_it_saw(run, sd2, prompt):
    seen = []

    def watch(apply, arguments):
        seen.append(arguments["input"])
        return apply(arguments["input"], arguments["timestep"], **arguments["c"])

    model = sd2.clone()
    model.set_model_unet_function_wrapper(watch)
    latent = {"samples": latent_with_a_bird()}
    run("HYPIRRestore", model, prompt, latent, **TILED, tile_batch=1)
    assert len(seen) == 3


def test_a_node_that_needs_a_negative_prompt_is_refused_where_there_is_none(
    run, sd2, prompt, patched
):
    model = patched("SelfAttentionGuidance", sd2, scale=0.5, blur_sigma=2.0)
    with pytest.raises(ValueError, match=r"needs a negative prompt.*HYPIR Sampler with CFG"):
        run("HYPIRRestore", model, prompt, {"samples": latent_with_a_bird()})


MADE_FOR_OTHERS = ("HyperTile", "TomePatchModel")


@pytest.mark.parametrize("name", MADE_FOR_OTHERS)
def test_a_patch_for_another_network_fails_in_a_sentence(run, host, patched, name):
    model = small_models.host_model(dict(small_models.flux_transformer().state_dict()))
    widths = host.pack("nodes.host.model").text_widths(model)
    positive = [[torch.ones(1, 3, widths.token), {"pooled_output": torch.ones(1, widths.pooled)}]]
    with pytest.raises(
        ValueError, match=r"network failed \(TypeError in .*remove the nodes"
    ) as error:
        run(
            "HYPIRRestore",
            patched(name, model, **NODES[name]),
            positive,
            {"samples": latent_with_a_bird(16)},
        )
    assert "\n" not in str(error.value) and isinstance(error.value.__cause__, TypeError)


@pytest.mark.parametrize(
    "wrong", [KeyError("y"), RuntimeError("mat1 and mat2\nshapes"), ValueError]
)
def test_a_patch_with_a_fault_of_its_own_fails_in_a_sentence(run, sd2, prompt, wrong):
    def patch(arguments):
        raise wrong

    model = sd2.clone()
    model.set_model_sampler_post_cfg_function(patch)
    with pytest.raises(ValueError, match=r"network failed .* in test_foreign_nodes.py") as error:
        run("HYPIRRestore", model, prompt, {"samples": latent_with_a_bird()})
    assert "\n" not in str(error.value)
