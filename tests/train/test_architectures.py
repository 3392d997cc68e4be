"""Every family of networks: recognised, called as diffusers calls it, adapted, judged, sharded."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.testing import assert_close

from hypir.predictions import FLOW
from hypir.priors import PRIORS
from hypir.train.architectures import ARCHITECTURES, ENTRIES, Condition, recognise
from hypir.train.export import add_lora
from hypir.train.files import Model
from hypir.train.generator import Generator, TextureToken, call_network
from hypir.train.loop import trainable
from hypir.train.models import small_base, untrained_models
from hypir.train.run import train

CPU = torch.device("cpu")
S = 0.364
every_prior = pytest.mark.parametrize("name", PRIORS)
every_flow = pytest.mark.parametrize("name", [n for n, p in PRIORS.items() if p.prediction is FLOW])


def scheduler_of(name: str) -> dict:
    return {"prediction_type": "v_prediction"} if name == "sd2-v" else {}


def some_condition(base, count: int = 1, length: int = 5) -> Condition:
    """Random text of the widths that the network takes."""
    random = torch.Generator().manual_seed(3)
    token, pooled = ARCHITECTURES[base.prior.name].text_widths(base.network)
    tokens = torch.randn(count, length, token, generator=random)
    return Condition(tokens, torch.randn(count, pooled, generator=random) if pooled else None)


def test_every_prior_has_one_entry():
    served = [prior.name for entry in ENTRIES for prior in entry.priors]
    assert sorted(served) == sorted(PRIORS)


@every_prior
def test_a_network_is_recognised_by_its_own_entry_alone(name):
    network = small_base(name).network
    found = [entry.recognise(network, scheduler_of(name)) for entry in ENTRIES]
    assert [prior for prior in found if prior is not None] == [PRIORS[name]]
    assert recognise(network, scheduler_of(name)) is PRIORS[name]


def test_networks_of_other_families_are_not_recognised():
    stable_diffusion_1 = ARCHITECTURES["sd2"].small_network(64)
    stable_diffusion_1.register_to_config(cross_attention_dim=768)
    assert recognise(stable_diffusion_1, {}) is None
    assert recognise(small_base("sdxl").network, {"prediction_type": "v_prediction"}) is None
    assert recognise(nn.Linear(1, 1), {}) is None


@every_prior
def test_the_small_models_have_the_text_and_latents_of_their_prior(name):
    base, prior = small_base(name), PRIORS[name]
    token, pooled = ARCHITECTURES[name].text_widths(base.network)
    assert token > 0 and (pooled > 0) == (prior.pooled_width > 0)
    config = base.vae.config
    assert config.latent_channels == prior.latent_channels
    assert (config.scaling_factor, config.shift_factor or 0) == (
        prior.latent_scale,
        prior.latent_shift,
    )


@every_prior
def test_every_target_names_layers_and_an_adapted_network_computes_what_it_did(name):
    base, entry = small_base(name), ARCHITECTURES[name]
    condition = some_condition(base)
    x = torch.randn(1, base.prior.latent_channels, 8, 8)
    t = torch.tensor([300.0])

    def output():
        with torch.no_grad():
            return call_network(base.prior, base.network, x, t, condition, base.prior.conditions)

    before = output()
    assert before.shape == x.shape
    names = [n for n, m in base.network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for target in entry.targets:
        assert any(f".{n}".endswith(f".{target}") for n in names), target
    add_lora(base.network, 4, entry.targets, 0)
    assert_close(output(), before, atol=1e-6, rtol=1e-6)
    for key, p in trainable(base.network).items():
        if ".lora_B." in key:
            p.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(key)))
    assert not torch.allclose(output(), before, atol=1e-3)


@every_prior
def test_the_blocks_that_are_sharded_are_in_the_network(name):
    network = small_base(name).network
    classes = {type(m).__name__ for m in network.modules()}
    blocks = set(network._no_split_modules) & classes
    inside = [m for m in network.modules() if type(m).__name__ in blocks]
    most = sum(p.numel() for p in {p for m in inside for p in m.parameters()})
    # what is in no block is gathered whole
    assert most > 0.5 * sum(p.numel() for p in network.parameters())


@every_prior
def test_recomputed_activations_give_the_same_gradients(name):
    gradients = []
    for recomputed in (False, True):
        base = small_base(name)
        add_lora(base.network, 4, ARCHITECTURES[name].targets, 0)
        if recomputed:
            base.network.enable_gradient_checkpointing()
        base.network.train()
        t = base.prior.timestep
        token = TextureToken(base.text.token_width)
        generator = Generator(base.prior, base.network, t, t, base.prior.input_scale, token)
        for key, p in trainable(generator).items():
            if ".lora_B." in key or "out" in key:
                p.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(key)))
        condition = base.text.encode(["", "a cat"], CPU)
        random = torch.Generator().manual_seed(0)
        z = torch.randn(2, base.prior.latent_channels, 4, 4, generator=random)
        x0 = generator(z, condition.tokens, condition.pooled, torch.tensor([0.2, 0.9]))
        x0.square().mean().backward()
        gradients.append({k: p.grad for k, p in trainable(generator).items()})
    for key, gradient in gradients[0].items():
        assert_close(gradients[1][key], gradient, atol=1e-6, rtol=1e-3)
    assert gradients[0]["texture.layers.in_weight"].abs().sum() > 0


@every_prior
def test_a_folder_of_diffusers_is_counted_without_its_weights(name, tmp_path):
    base, entry = small_base(name), ARCHITECTURES[name]
    base.network.save_config(tmp_path / entry.part)
    base.vae.save_config(tmp_path / "vae")
    asked = Model(prior=name, base=str(tmp_path))
    (tmp_path / "model_index.json").write_text("{}")
    with torch.device("meta"):
        found = untrained_models(asked)
    for empty, real in zip(found, (base.network, base.vae), strict=True):
        assert type(empty) is type(real)
        assert {k: v.shape for k, v in empty.named_parameters()} == {
            k: v.shape for k, v in real.named_parameters()
        }
        assert all(p.is_meta for p in empty.parameters())


def pipeline_of(name: str, base):
    """Diffusers' own pipeline around the network, without text encoders."""
    parts = {
        "sd3": ("StableDiffusion3Pipeline", 3),
        "flux": ("FluxPipeline", 2),
        "z_image": ("ZImagePipeline", 1),
    }
    kind, count = parts[name]
    texts = {
        f"{part}{end}": None
        for part in ("text_encoder", "tokenizer")
        for end in ("", "_2", "_3")[:count]
    }
    scheduler = FlowMatchEulerDiscreteScheduler()
    pipeline = getattr(diffusers, kind)(
        transformer=base.network, vae=base.vae, scheduler=scheduler, **texts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@every_flow
def test_one_step_of_a_flow_is_that_of_diffusers_own_pipeline(name):
    base = small_base(name)
    condition = some_condition(base)
    x_t = torch.randn(1, 16, 8, 12)
    given = {"latents": x_t, "height": 64, "width": 96, "sigmas": [S], "output_type": "latent"}
    given |= {"num_inference_steps": 1, "return_dict": False}
    own = {
        "sd3": lambda: {
            "prompt_embeds": condition.tokens,
            "pooled_prompt_embeds": condition.pooled,
            "guidance_scale": 1.0,
        },
        "flux": lambda: {
            "prompt_embeds": condition.tokens,
            "pooled_prompt_embeds": condition.pooled,
            "guidance_scale": 3.5,
            "latents": diffusers.FluxPipeline._pack_latents(x_t, 1, 16, 8, 12),
        },
        "z_image": lambda: {"prompt_embeds": list(condition.tokens), "guidance_scale": 0.0},
    }
    want = pipeline_of(name, base)(**given | own[name]())[0]
    if name == "flux":
        want = diffusers.FluxPipeline._unpack_latents(want, 64, 96, 8)
    v = call_network(
        base.prior, base.network, x_t, torch.tensor([1000 * S]), condition, base.prior.conditions
    )
    assert_close(x_t - S * v, want, atol=1e-5, rtol=1e-5)
    assert v.abs().mean() > 1e-2


def test_captions_of_different_lengths_are_each_what_it_is_alone():
    base = small_base("z_image")
    long, short = some_condition(base, length=40).tokens[0], some_condition(base).tokens[0]
    z = torch.randn(2, 16, 8, 12)
    t = base.prior.timestep
    token = TextureToken(base.text.token_width)
    token.layers["out_weight"].data.normal_(generator=torch.Generator().manual_seed(0))
    generator = Generator(base.prior, base.network, t, t, base.prior.input_scale, token)
    richness = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        both = generator(z, (long, short), None, richness)
        for i, caption in enumerate((long, short)):
            alone = generator(z[i : i + 1], caption[None], None, richness[i : i + 1])
            assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-5)
        unseen = generator(z, (long, short), None, richness, True)
        assert torch.equal(unseen, generator(z, (long, short), None))
        assert not torch.allclose(unseen, both, atol=1e-3)


@every_prior
def test_the_richness_token_is_one_more_token_behind_the_caption(name):
    base = small_base(name)
    t, condition = base.prior.timestep, some_condition(base, count=2)
    token = TextureToken(base.text.token_width)
    token.layers["out_weight"].data.normal_(generator=torch.Generator().manual_seed(0))
    generator = Generator(base.prior, base.network, t, t, base.prior.input_scale, token)
    z = torch.randn(2, base.prior.latent_channels, 8, 8)
    richness = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        by_hand = torch.cat([condition.tokens, token(richness)], dim=1)
        assert torch.equal(
            generator(z, condition.tokens, condition.pooled, richness),
            generator(z, by_hand, condition.pooled),
        )


def test_only_a_table_of_positions_can_be_shifted(make_recipe, accelerator):
    assert [name for name, entry in ARCHITECTURES.items() if entry.position_table] == ["sd3"]
    with pytest.raises(ValueError, match=r"position table, which FLUX.1 .* does not have"):
        train(make_recipe("flux", random_positions=True), accelerator)


@every_prior
def test_features_that_are_judged_lie_where_the_picture_lies(name):
    """What changes in one corner of the latent changes the map there most."""
    base, entry = small_base(name), ARCHITECTURES[name]
    network, outputs = copy.deepcopy(base.network), []
    for module in entry.levels(network):
        module.register_forward_hook(lambda m, i, output: outputs.append(output))
    condition = some_condition(base)
    z = torch.randn(1, base.prior.latent_channels, 16, 24)
    changed = z.clone()
    changed[..., :4, :4] += 2
    maps = []
    for x in (z, changed):
        outputs.clear()
        with torch.no_grad():
            call_network(
                base.prior, network, x, torch.tensor([200.0]), condition, base.prior.conditions
            )
        maps.append([entry.feature_map(o, (16, 24)) for o in outputs])
    assert len(maps[0]) >= 2
    before, after = maps[0][0], maps[1][0]
    rows, columns = before.shape[-2:]
    assert rows * 24 == columns * 16
    moved = (after - before).square().sum(dim=1)[0]
    corner = moved[: rows // 4, : columns // 6]
    assert corner.mean() > 4 * moved.mean()
