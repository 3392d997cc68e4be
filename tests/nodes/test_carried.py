"""HYPIR weights give their own step by whatever way they come into a MODEL."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import SD2, SD2_V
from hypir.texture import init_texture_mlp
from hypir.weights import HypirWeights, read_weights, save_weights

from . import small_models
from .test_parity import RANK

NAME, TIMESTEP = "carried.safetensors", 100
UNKNOWN = "Nothing on this model says that HYPIR weights are on it"


@pytest.fixture(scope="module")
def file(host):
    factors = small_models.lora_for(
        small_models.sd2_unet(), small_models.UNET_TARGETS, RANK, scale=0.5
    )
    mlp = init_texture_mlp(1024)
    weights = HypirWeights(SD2, factors, RANK, TIMESTEP, TIMESTEP, 1.0, texture=mlp)
    path = host.models / "loras" / NAME
    save_weights(weights, path)
    yield NAME
    path.unlink()  # other tests load the same tensors with other settings


@pytest.fixture
def of_another_prior(file, host):
    """The same tensors under another name, for another prior and timestep."""
    weights = read_weights(host.models / "loras" / file)
    path = host.models / "loras" / "a_file_for_v.safetensors"  # sorts before NAME
    save_weights(replace(weights, prior=SD2_V, timestep=300, coefficient_timestep=300), path)
    yield
    path.unlink()


@pytest.fixture
def base(sd2):
    return sd2


@pytest.fixture
def latent():
    return {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))}


@pytest.fixture
def restored(run, prompt, latent):
    def restore(model, positive=None, **options):
        return run("HYPIRRestore", model, positive or prompt, latent, **options)["samples"]

    return restore


@pytest.fixture
def core(host):
    def call(name: str, **inputs):
        node = host.core[name]
        if hasattr(node, "GET_SCHEMA"):
            return node.execute(**inputs).result
        return getattr(node(), node.FUNCTION)(**inputs)

    return call


@pytest.fixture
def saved(core, tmp_path, monkeypatch):
    """A MODEL saved by the host's node and loaded again as its loaders do."""
    import comfy.sd
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def save(model):
        core("ModelSave", model=model, filename_prefix="saved")
        path = max(tmp_path.glob("saved*"))
        options = {"dtype": torch.float32}
        return comfy.sd.load_diffusion_model(str(path), model_options=options)

    return save


def loaded(run, base, file, strength=1.0):
    return run("HYPIRLoadLora", base, file, strength)


def test_saved_and_loaded_again(run, base, file, restored, saved, caplog):
    model = loaded(run, base, file)
    again = saved(model)
    assert_close(restored(again), restored(model), atol=1e-4, rtol=1e-4)
    assert UNKNOWN not in caplog.text
    texture = {"texture": "set", "richness": 0.5}
    got, want = (run("HYPIRConditioning", m, texture=texture)[0][0] for m in (again, model))
    assert torch.equal(got, want), "the texture part travels too"


def test_a_base_saved_after_hypir_was_used_is_the_base(run, base, file, restored, saved, caplog):
    restored(loaded(run, base, file))
    caplog.clear()
    assert_close(restored(saved(base), timestep=200), restored(base), atol=1e-5, rtol=1e-5)
    assert UNKNOWN in caplog.text


def test_the_hosts_own_lora_loader(run, base, file, restored, core, caplog):
    (other,) = core("LoraLoaderModelOnly", model=base, lora_name=file, strength_model=1.0)
    caplog.set_level(logging.INFO)
    assert_close(restored(other), restored(loaded(run, base, file)), atol=1e-5, rtol=1e-5)
    assert f"the model carries {file}, timestep {TIMESTEP}" in caplog.text


@pytest.mark.usefixtures("of_another_prior")
def test_of_files_with_the_same_tensors_the_one_for_the_prior_counts(
    base, file, restored, core, caplog
):
    (other,) = core("LoraLoaderModelOnly", model=base, lora_name=file, strength_model=1.0)
    caplog.set_level(logging.INFO)
    restored(other)
    assert f"the model carries {file}, timestep {TIMESTEP}" in caplog.text


def test_the_hosts_bypass_loader(run, base, file, restored, core):
    (other,) = core("LoraLoaderBypassModelOnly", model=base, lora_name=file, strength_model=1.0)
    assert_close(restored(other), restored(loaded(run, base, file)), atol=1e-3, rtol=1e-3)


def test_a_hook_of_the_conditioning(run, host, base, file, restored, core, prompt, latent):
    (hook,) = core("CreateHookLoraModelOnly", lora_name=file, strength_model=1.0)
    (hooked,) = core(
        "ConditioningSetProperties",
        cond_NEW=prompt,
        strength=1.0,
        set_cond_area="default",
        hooks=hook,
    )
    want = restored(loaded(run, base, file))
    assert_close(restored(base, hooked), want, atol=1e-4, rtol=1e-4)
    sampler, sigmas = run("HYPIRSampler", base)
    node = host.core["SamplerCustom"]
    with pytest.raises(ValueError, match=r"hook puts carried.* at timestep 100.*set its timestep"):
        node.execute(base, False, 0, 1.0, hooked, hooked, sampler, sigmas, latent)
    sampler, sigmas = run("HYPIRSampler", base, timestep=TIMESTEP)
    got = node.execute(base, False, 0, 1.0, hooked, hooked, sampler, sigmas, latent).result[0]
    assert_close(got["samples"], want, atol=1e-4, rtol=1e-4)


def test_merged_with_the_base(run, base, file, restored, core, caplog):
    model = loaded(run, base, file)
    half = restored(loaded(run, base, file, 0.5))
    (merged,) = core("ModelMergeSimple", model1=base, model2=model, ratio=0.5)
    assert_close(restored(merged), half, atol=1e-4, rtol=1e-4)
    (other,) = core("ModelMergeSimple", model1=model, model2=base, ratio=0.5)
    assert_close(restored(other), half, atol=1e-4, rtol=1e-4)
    (difference,) = core("ModelMergeSubtract", model1=model, model2=base, multiplier=1.0)
    (sum_,) = core("ModelMergeAdd", model1=base, model2=difference)
    assert_close(restored(sum_), restored(model), atol=1e-4, rtol=1e-4)
    assert UNKNOWN not in caplog.text and "strength 0" not in caplog.text


def test_merged_away_is_said(run, base, file, restored, core, caplog):
    (merged,) = core("ModelMergeSimple", model1=loaded(run, base, file), model2=base, ratio=0.0)
    restored(merged)
    assert f"weights of {file} are on this model with strength 0" in caplog.text


def test_weights_that_nobody_knows_of_are_not_denied(base, restored, caplog):
    restored(base)
    assert UNKNOWN in caplog.text and "timestep 200" in caplog.text


def test_no_second_helping(run, base, file, core, saved):
    (by_host,) = core("LoraLoaderModelOnly", model=base, lora_name=file, strength_model=1.0)
    (merged,) = core("ModelMergeSimple", model1=base, model2=loaded(run, base, file), ratio=0.5)
    for model in (by_host, merged, saved(loaded(run, base, file))):
        with pytest.raises(ValueError, match=rf"already has the HYPIR weights {file}"):
            loaded(run, model, file)


def test_half_of_a_file_is_not_taken_for_the_whole(base, file, restored):
    import comfy.lora
    import comfy.utils

    host_path = __import__("folder_paths").get_full_path("loras", file)
    tensors = comfy.utils.load_torch_file(host_path)
    keys = comfy.lora.model_lora_keys_unet(base.model, {})
    some = {k: v for k, v in tensors.items() if "to_q" in k}
    model = base.clone()
    patches = comfy.lora.load_lora(some, keys)
    assert len(model.add_patches(patches, 1.0)) == len(some) // 2
    with pytest.raises(ValueError, match=r"\d+ of the \d+ LoRA tensors of carried"):
        restored(model)


def test_the_public_file_through_the_hosts_loader_is_half_of_it(run, base, restored):
    import comfy.lora

    tensors = {}
    for part, shape in (("A", (4, 320)), ("B", (320, 4))):
        name = f"down_blocks.0.attentions.0.proj_in.lora_{part}.default.weight"
        tensors[name] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    keys = comfy.lora.model_lora_keys_unet(base.model, {})
    keys = {
        **keys,
        "down_blocks.0.attentions.0.proj_in": keys["lora_unet_down_blocks_0_attentions_0_proj_in"],
    }
    model = base.clone()
    assert model.add_patches(comfy.lora.load_lora(tensors, keys), 1.0)
    with pytest.raises(ValueError, match=r"put 1 of the 257 modules of the public HYPIR file"):
        restored(model)


def test_another_lora_alone_is_no_hypir(run, host, base, file, restored, core, caplog):
    from safetensors.torch import load_file, save_file

    tensors = load_file(host.models / "loras" / file)
    style = {k: v * 0.5 for k, v in tensors.items() if k.startswith("lora_")}
    save_file(style, host.models / "loras" / "style.safetensors")
    (other,) = core(
        "LoraLoaderModelOnly", model=base, lora_name="style.safetensors", strength_model=1.0
    )
    restored(other)
    assert UNKNOWN in caplog.text


@pytest.mark.parametrize(
    ("node", "key", "folder"),
    [("HYPIRLoadLora", "lora_name", "loras"), ("HYPIRLoadEncoder", "encoder_name", "vae")],
)
def test_a_loader_is_run_again_when_its_file_changes(host, node, key, folder):
    path = host.models / folder / "changing.safetensors"
    path.write_bytes(b"one")
    fingerprint = host.nodes[node].fingerprint_inputs
    first = fingerprint(**{key: path.name}, strength=1.0)
    assert fingerprint(**{key: path.name}, strength=1.0) == first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert fingerprint(**{key: path.name}) != first
    path.unlink()
    assert fingerprint(**{key: path.name}) == "gone"
    assert math.isnan(fingerprint(strength=1.0)), "a name from another node is not known yet"
