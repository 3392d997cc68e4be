"""The plan of a run against the run: what is counted without computing is what training has."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from hypir.__main__ import main
from hypir.train.architectures import ARCHITECTURES
from hypir.train.feed import Feed
from hypir.train.plan import describe
from hypir.train.plan.live_bytes import LiveBytes
from hypir.train.plan.measure import measure
from hypir.train.run import MAKERS
from hypir.train.update import Place

# Millions of parameters: of the safetensors on the hub, networks, then text encoders.
PUBLISHED = {
    "sd2": (865.91, [340.39]),
    "sdxl": (2567.46, [123.06, 694.66]),
    "sd3": (8056.63, [123.65, 694.66, 4762.31]),
    "flux": (11901.41, [123.06, 4762.31]),
    "z_image": (6154.91, [4022.47]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_of_the_known_bases_are_the_published_ones(name):
    entry = ARCHITECTURES[name]
    with torch.device("meta"):
        network, vae = entry.full_network(), entry.full_vae()
    encoders = [encoder.parameters() / 1e6 for encoder in entry.text_encoders]
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(
        PUBLISHED[name][0], abs=0.01
    )
    assert encoders == pytest.approx(PUBLISHED[name][1], abs=0.01)
    # autoencoder: 83.65 M with four channels and the layers between, 83.82 M with sixteen
    assert sum(p.numel() for p in vae.parameters()) / 1e6 == pytest.approx(83.7, abs=0.2)
    prior = entry.priors[0]
    assert entry.text_widths(network) == (prior.token_width, prior.pooled_width)


CASES = {
    "sd2": "adversarial",
    "flux": "encoder",
    "tiny": "autoencoder",
    "z_image": "adversarial",
}


@pytest.mark.parametrize("prior", CASES)
def test_what_is_planned_is_what_training_takes(make_recipe, accelerator, prior):
    name = CASES[prior]
    recipe = make_recipe(prior, stages=(name,), crop=64, pool=0, discriminator="patch")
    plan = measure(recipe, name)
    stage = MAKERS[name](recipe, accelerator)
    trained = {
        key: sum(p.numel() for p in module.parameters() if p.requires_grad)
        for key, module in stage.modules.items()
    }
    assert plan.trained == trained
    batch = Feed(recipe, accelerator.device).next()
    # the first step makes optimizer states, and the first of two batches all gradients
    stage.step(iter([batch]), 1, 0)
    stage.backward(batch, Place(1, 0, 2))
    with LiveBytes() as tracked:
        stage.backward(batch, Place(1, 1, 2))
    # attention apart, for which a GPU has other kernels
    assert plan.activations == pytest.approx(tracked.peak, rel=0.1)
    state = sum(bytes_of(optimizer.state) for optimizer in stage.optimizers.values())
    gradients = sum(4 * count for count in trained.values())
    assert plan.state == pytest.approx(state + gradients + bytes_of(stage.ema.shadow), rel=1e-3)


# The attention of the CPU is not in torch's table.
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
        sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, *qkv, **_: (
        sdpa_backward_flop_count(g, *qkv[:3])
    ),
}


def bytes_of(value) -> int:
    if isinstance(value, Tensor):
        return value.nbytes
    return sum(map(bytes_of, value.values())) if hasattr(value, "values") else 0


def test_a_plan_reads_no_weights_and_counts_everything(tmp_path, capsys):
    (tmp_path / "unread.safetensors").write_bytes(b"no weights")
    command = ["train", "sd2", "--data", "leaves:", "--stages", "adversarial", "--crop", "256"]
    command += ["--lora-file", str(tmp_path / "unread.safetensors"), "--rank", "16"]
    command += ["--tflops", "100", "--dry-run"]
    assert main(command) == 0
    told = capsys.readouterr().out
    # the UNet in bf16, ConvNeXt-XXL, the autoencoder with its encoder twice, VGG16
    assert "12.91 M of the discriminator" in told
    frozen = float(told.split("frozen")[1].split()[0])
    assert frozen == pytest.approx(865.9 + 846.5 + 83.7 + 34.2 + 14.7, abs=1)
    for word in ("8 GPUs", "with FSDP", "text encoders   0.63 GiB", "checkpoint", "h on 1 GPU"):
        assert word in told
    assert "192 batches on 8 GPUs" in told


def test_work_is_that_of_torchs_own_counter(make_recipe, accelerator):
    recipe = make_recipe("sd2", crop=64, pool=0, discriminator="patch", gradient_checkpointing=True)
    stage = MAKERS["adversarial"](recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counted:
        stage.backward(batch, Place(1, 1, 2))
    plan = measure(recipe, "adversarial")
    assert plan.flops == pytest.approx(counted.get_total_flops(), rel=0.01)


def test_recomputing_saves_activations_apart_for_network_and_autoencoder(make_recipe):
    sizes = {}
    for network, vae in itertools.product((False, True), repeat=2):
        recipe = make_recipe("sd2", crop=64, discriminator="patch")
        recipe = recipe.changed(gradient_checkpointing=network, vae_checkpointing=vae)
        sizes[network, vae] = measure(recipe, "adversarial").activations
    assert sizes[True, True] < min(sizes[True, False], sizes[False, True])
    assert max(sizes[True, False], sizes[False, True]) < sizes[False, False]


def test_hours_and_the_pool_follow_from_the_recipe(make_recipe):
    recipe = make_recipe("sd2", crop=64, pool=8, tflops=1e-3, discriminator="patch", workers=0)
    text = describe.describe_plan(recipe, 1)
    work = float(text.split("work")[1].split()[0]) * 1e12
    hours = float(text.split("time")[1].split()[0])
    images = sum(phase.steps * phase.images for phase in recipe.schedule.adversarial)
    assert hours == pytest.approx(images * work / 1e9 / 3600, rel=0.01)
    assert describe.pool_bytes(recipe) == 8 * 3 * (64**2 + 16**2)
    assert json.dumps(recipe.to_dict())  # a plan's speed is a field as any other
