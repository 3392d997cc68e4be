"""Memory is the host's: asked for per tile, given back, and never fatal by a single try."""

from __future__ import annotations

import copy
import gc
import logging
import weakref

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import SD2
from hypir.weights import HypirWeights, save_weights

from . import small_models
from .test_parity import RANK


@pytest.fixture(scope="module")
def lora(host):
    """A file for the small SD2 model."""
    factors = small_models.lora_for(small_models.sd2_unet(), small_models.UNET_TARGETS, RANK)
    save_weights(
        HypirWeights(SD2, factors, RANK, 200, 200, 1.0), host.models / "loras" / "m.safetensors"
    )
    return "m.safetensors"


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 32, 48, generator=torch.Generator().manual_seed(2))}


def failing_above(limit: int, sides: list[int]):
    """A wrapper of the network that runs out of memory for tiles beyond `limit` cells."""

    def call(apply_model, arguments):
        side = max(arguments["input"].shape[-2:])
        sides.append(side)
        if side > limit:
            raise torch.OutOfMemoryError("out of memory, as a small device would say")
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    return call


def test_a_partly_loaded_model_gives_the_result_of_a_whole_one(
    run, sd2, lora, prompt, latent, monkeypatch
):
    import comfy.model_management

    patched = run("HYPIRLoadLora", sd2, lora, 1.0)
    want = run("HYPIRRestore", patched, prompt, latent)["samples"]
    base = run("HYPIRRestore", sd2, prompt, latent)["samples"]
    assert (want - base).abs().max() > 0.1, "a patch that is forgotten would be seen"
    size = patched.model_size()
    loaded = comfy.model_management.LoadedModel
    partly = []

    def watch(apply_model, arguments):
        model = patched.model
        partly.append((model.model_lowvram, model.lowvram_patch_counter))
        assert model.model_loaded_weight_memory < size
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    patched.set_model_unet_function_wrapper(watch)
    for budget in (size // 10, size // 3, size - 1):
        # On a CPU the host takes all memory for free; here the patcher gets the budget.
        def load(self, _extra, force_patch_weights=False, budget=budget):
            return self.model.partially_load(self.device, budget, force_patch_weights)

        monkeypatch.setattr(loaded, "model_use_more_vram", load)
        comfy.model_management.unload_all_models()
        partly.clear()
        got = run("HYPIRRestore", patched, prompt, latent)["samples"]
        # What the patcher keeps out of the budget is patched when it is used.
        assert partly and all(low and patches > 0 for low, patches in partly)
        assert_close(got, want, atol=1e-5, rtol=1e-5)
    comfy.model_management.unload_all_models()


def test_memory_is_asked_for_by_tile_and_not_by_picture(run, sd2, vae, prompt, photo, asked):
    def most(size: int) -> dict[str, float]:
        image = photo[:, :1, :1].expand(1, size, size, 3)
        result = {}
        for stage in ("encode", "restore", "decode"):
            asked.clear()
            if stage == "encode":
                latent = run("HYPIREncode", image, vae, tile_size=128)
                latent["samples"] = latent["samples"] + 1.0
            elif stage == "restore":
                run("HYPIRRestore", sd2, prompt, latent, tile_size=128, tile_batch=1)
            else:
                run("HYPIRDecode", latent, vae, tile_size=128)
            result[stage] = max(asked)
        return result

    small, large = most(160), most(320)
    assert all(value > 0 for value in small.values())
    assert large == small


def test_out_of_memory_starts_the_step_again_with_smaller_tiles(run, sd2, prompt, latent, caplog):
    sides = []
    starved = sd2.clone()
    starved.set_model_unet_function_wrapper(failing_above(32, sides))
    with caplog.at_level(logging.WARNING):
        got = run("HYPIRRestore", starved, prompt, latent)["samples"]
    assert sides == [48, 32, 32], "one whole tile, then two small ones, one a call"
    assert "out of memory" in caplog.text and "starting again" in caplog.text
    want = run("HYPIRRestore", sd2, prompt, latent, tile_size=256)["samples"]
    assert got.shape == want.shape and torch.isfinite(got).all()


@pytest.mark.parametrize(
    "said",
    [
        "MPS backend out of memory (MPS allocated: 17.6 GB, max allowed: 18.1 GB)",
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to",
        "[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_every_device_s_words_for_it_are_understood(run, sd2, prompt, latent, said, caplog):
    def starved(apply_model, arguments):
        if max(arguments["input"].shape[-2:]) > 32:
            raise RuntimeError(said)
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model = sd2.clone()
    model.set_model_unet_function_wrapper(starved)
    run("HYPIRRestore", model, prompt, latent)
    assert "out of memory" in caplog.text and "starting again" in caplog.text


def test_out_of_memory_of_several_tiles_takes_the_same_tiles_one_by_one(
    run, sd2, prompt, latent, caplog
):
    counts = []

    def crowded(apply_model, arguments):
        counts.append(len(arguments["input"]))
        if counts[-1] > 1:
            raise torch.OutOfMemoryError("out of memory, as a small device would say")
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    starved = sd2.clone()
    starved.set_model_unet_function_wrapper(crowded)
    options = {"tile_size": 128, "overlap": 0}
    with caplog.at_level(logging.WARNING):
        got = run("HYPIRRestore", starved, prompt, latent, **options)["samples"]
    assert counts == [6, 1, 1, 1, 1, 1, 1], "all six, then one a call"
    assert "with 6 tiles per call; starting again with one per call" in caplog.text
    want = run("HYPIRRestore", sd2, prompt, latent, tile_batch=1, **options)["samples"]
    assert torch.equal(got, want)


def test_out_of_memory_at_the_smallest_tiles_says_what_was_needed(run, sd2, prompt, latent):
    starved = sd2.clone()
    starved.set_model_unet_function_wrapper(failing_above(0, []))
    with pytest.raises(
        RuntimeError, match=r"smallest tiles .* needs about .* GiB, and .* GiB are free"
    ):
        run("HYPIRRestore", starved, prompt, latent)


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_out_of_memory_in_the_vae_uses_our_smaller_tiles_and_not_the_hosts(
    run, vae, photo, stage, caplog
):
    image = photo[:, :400, :400]
    starved = copy.copy(vae)
    starved.patcher = vae.patcher.clone()
    sides = []
    part = "encoder" if stage == "encode" else "decoder"
    limit = 256 if stage == "encode" else 32

    class Starved(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x, **rest):
            sides.append(max(x.shape[-2:]))
            if sides[-1] > limit:
                raise torch.OutOfMemoryError("out of memory, as a small device would say")
            return self.module(x, **rest)

    starved.patcher.add_object_patch(part, Starved(getattr(vae.first_stage_model, part)))
    latent = run("HYPIREncode", image, starved)
    with caplog.at_level(logging.WARNING):
        result = run("HYPIRDecode", latent, starved)
    assert result.shape == image.shape
    assert sides[0] > limit and sides[-1] == limit
    smaller = {"tile_size": 256}
    if stage == "decode":
        assert_close(result, run("HYPIRDecode", latent, vae, **smaller), atol=1e-5, rtol=0)
    else:
        want = run("HYPIREncode", image, vae, **smaller)["samples"]
        # One tile a call rounds otherwise than four, and random weights amplify it.
        assert_close(latent["samples"], want, atol=2e-3, rtol=1e-3)


def test_changing_a_number_loads_no_model_again(run, sd2, vae, lora, prompt, photo):
    import comfy.model_management
    from comfy.patcher_extension import CallbacksMP

    image = photo[:, :64, :64]
    patched = run("HYPIRLoadLora", sd2, lora, 1.0)
    latent = run("HYPIREncode", image, vae)
    loads = []
    patched.add_callback(CallbacksMP.ON_LOAD, lambda *_: loads.append("network"))
    watched = copy.copy(vae)
    watched.patcher = vae.patcher.clone()
    watched.patcher.add_callback(CallbacksMP.ON_LOAD, lambda *_: loads.append("autoencoder"))
    comfy.model_management.unload_all_models()
    run("HYPIRRestore", patched, prompt, latent)
    run("HYPIRDecode", latent, watched, image)
    assert "network" in loads and "autoencoder" in loads, "the first run loads both"
    loads.clear()
    run("HYPIRRestore", patched, prompt, latent, timestep=250)
    run("HYPIRRestore", patched, prompt, run("HYPIRInjectNoise", sd2, latent, 0.1, 4))
    run("HYPIRDecode", latent, watched, image, "wavelet", 0.3)
    assert loads == []
    # The callback does see a load: other weights on the same model take its place.
    again = run("HYPIRLoadLora", sd2, lora, 0.5)
    run("HYPIRRestore", again, prompt, latent)
    run("HYPIRRestore", patched, prompt, latent)
    assert loads == ["network"]


def test_freeing_the_hosts_memory_leaves_nothing_of_ours(host, run, lora, prompt, latent):
    import comfy.model_management

    model = small_models.host_model(small_models.unet_for_host(small_models.sd2_unet()))
    patched = run("HYPIRLoadLora", model, lora, 1.0)
    run("HYPIRRestore", patched, prompt, latent)
    network = weakref.ref(model.model)
    factors = weakref.ref(next(iter(patched.patches.values()))[0][1].weights[0])
    comfy.model_management.unload_all_models()
    del model, patched
    gc.collect()
    assert network() is None and factors() is None


def test_the_model_that_came_in_is_never_changed(run, sd2, vae, lora, prompt, latent, photo):
    before = {k: v.clone() for k, v in sd2.model.state_dict().items()}
    pictures = {k: v.clone() for k, v in vae.patcher.model.state_dict().items()}
    patched = run("HYPIRLoadLora", sd2, lora, 1.5)
    run("HYPIRRestore", patched, prompt, latent)
    run("HYPIRDecode", run("HYPIREncode", photo[:, :64, :64], vae, 0, -1, "sample"), vae)
    assert not sd2.patches and sd2.get_attachment("hypir") is None
    assert not vae.patcher.object_patches
    patched.detach()
    for key, value in sd2.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    for key, value in vae.patcher.model.state_dict().items():
        assert torch.equal(value, pictures[key]), key


def test_what_directml_says_of_its_memory_makes_no_smaller_tiles(host, monkeypatch):
    """The host knows nothing of its memory and says 1 GiB to everyone."""
    import comfy.model_management

    from hypir.tiling import VAE_COST, plan_tiles

    def planned(limit):
        return plan_tiles(96, 96, VAE_COST, limit=limit)

    def ladder():
        device = torch.device("cpu")
        run_on_ladder = host.pack("nodes.host.memory").run_on_ladder
        return run_on_ladder(
            "decode", planned, lambda plan: 1, lambda plan, batch: plan, lambda plan: 5e9, device
        )

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 2**30)
    assert ladder().rows.tile < planned(None).rows.tile, "a device of 1 GiB takes smaller ones"
    monkeypatch.setattr(comfy.model_management, "is_directml_enabled", lambda: True)
    assert ladder() == planned(None)
