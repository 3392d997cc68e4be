"""The public file's 257 modules at full size: what the host makes of them is what peft makes."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from hypir.__main__ import main
from hypir.public_file import PUBLIC_RANK, public_sd2_modules

from . import small_models
from .test_full_size import host_model_on_meta, sd21_unet_on_meta


def random_state(unet) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in unet.state_dict().items():
        if value.ndim > 1:
            bound = (3 / value[0].numel()) ** 0.5  # unit variance in, unit variance out
            state[name] = torch.empty(value.shape).uniform_(-bound, bound, generator=generator)
        else:
            state[name] = torch.full(value.shape, float("norm" in name and "weight" in name))
    return state


@pytest.fixture(scope="module")
def public_file(host):
    """A file with the public names, shapes and rank, and random factors (1 GB)."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for module, shape in public_sd2_modules().items():
        tail = (1, 1) if len(shape) == 4 else ()
        down = torch.empty((PUBLIC_RANK, *shape[1:]))
        up = torch.empty((shape[0], PUBLIC_RANK, *tail))
        bound = (3 / down[0].numel()) ** 0.5
        tensors[f"{module}.lora_A.default.weight"] = down.uniform_(
            -bound, bound, generator=generator
        )
        tensors[f"{module}.lora_B.default.weight"] = up.uniform_(-0.02, 0.02, generator=generator)
    path = host.models / "loras" / "HYPIR_sd2.pth"
    torch.save(tensors, path)
    yield path, tensors
    path.unlink()


def test_all_257_modules_of_the_public_file_act_as_in_peft(run, host, public_file):
    from peft import LoraConfig, inject_adapter_in_model

    path, factors = public_file
    model = host_model_on_meta("sd2")
    unet = sd21_unet_on_meta()
    unet.load_state_dict(random_state(unet), assign=True)
    # One copy of the weights (3.5 GB) for both: the host patches copies and keeps the originals.
    weights = small_models.unet_for_host(unet)
    prefix = "model.diffusion_model."
    model.model.diffusion_model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in weights.items()}, assign=True
    )
    model.model.requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(1, 77, 1024, generator=generator)
    z = torch.randn(1, 4, 16, 24, generator=generator)
    samples = {"samples": z / 0.18215}

    base = run("HYPIRRestore", model, [[text, {}]], samples)["samples"]
    patched = run("HYPIRLoadLora", model, path.name, 1.0)
    assert len(patched.patches) == 257
    check_a_clip_is_asked_for(run, patched)
    got = run("HYPIRRestore", patched, [[text, {}]], samples)["samples"] * 0.18215
    patched.detach()

    modules = [name.removesuffix(".lora_A.default.weight") for name in factors]
    config = LoraConfig(
        r=PUBLIC_RANK, lora_alpha=PUBLIC_RANK, target_modules=sorted(set(modules[::2]))
    )
    unet = inject_adapter_in_model(config, unet, low_cpu_mem_usage=True)
    loaded = unet.load_state_dict(factors, strict=False, assign=True)
    assert not loaded.unexpected_keys and not [k for k in loaded.missing_keys if "lora" in k]
    eps = unet(z, torch.tensor([200]), text).sample
    alpha_bar = 0.7536920  # cumulative product of diffusers' DDPMScheduler at 200
    want = (z - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5
    assert (got - base * 0.18215).abs().max() > 0.01, "the LoRA does something"
    assert_close(got, want, atol=1e-4, rtol=0)


def check_a_clip_is_asked_for(run, model):
    """The empty prompt that the file was trained with is that of SD2's text encoder."""
    with pytest.raises(
        ValueError, match=r"(?i)hypir_sd2\..* trained with the text encoder of .*CLIP"
    ):
        run("HYPIRConditioning", model, texture={"texture": "off"})


def test_the_converted_file_gives_the_host_loader_all_257_modules(run, host, public_file, caplog):
    """Today's core loader takes 129 of the public file's modules and says so in the log only."""
    path, factors = public_file
    target = path.with_name("hypir_sd2.safetensors")
    assert main(["convert", str(path), str(target)]) == 0
    model = host_model_on_meta("sd2")
    loader = host.core["LoraLoaderModelOnly"]
    raw = loader().load_lora_model_only(model, path.name, 1.0)[0]
    assert len(raw.patches) == 129
    converted = loader().load_lora_model_only(model, target.name, 1.0)[0]
    assert len(converted.patches) == 257
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    up, down = converted.patches[key][0][1].weights[:2]
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.equal(up, factors[f"{name}.lora_B.default.weight"])
    assert torch.equal(down, factors[f"{name}.lora_A.default.weight"])
    check_a_clip_is_asked_for(run, converted)
    target.unlink()
