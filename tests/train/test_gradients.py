"""Gradients of the trained losses against differences in float64 of the plainly written formula."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.encoder_stage import EncoderStage
from hypir.train.feed import Feed
from hypir.train.loop import trainable

H = 1e-8  # small: rectifiers bend within any larger step, and float64 bears it


def slope(parameters: dict, direction: dict, loss) -> float:
    """Central difference of `loss()` along `direction`, in float64."""
    values = []
    for sign in (1, -1):
        for name, p in parameters.items():
            p.data += sign * H * direction[name]
        values.append(float(loss()))
        for name, p in parameters.items():
            p.data -= sign * H * direction[name]
    return (values[0] - values[1]) / (2 * H)


def unit_gradient(module: torch.nn.Module) -> tuple[float, dict]:
    """Norm and direction of the gradient: along it the slope is the norm, along any other less."""
    gradient = {k: p.grad.double() for k, p in trainable(module).items()}
    norm = float(torch.cat([g.flatten() for g in gradient.values()]).norm())
    return norm, {k: g / norm for k, g in gradient.items()}


def test_the_one_step_generator_has_the_gradient_of_its_formula(make_recipe, accelerator):
    recipe = make_recipe(gan=0.0, pyramid=0.0, noise=0.0, texture=False, random_positions=False)
    stage = AdversarialStage(recipe, accelerator)
    for name, p in trainable(stage.generator).items():
        if ".lora_B." in name:  # zero at the start, where half of all gradients vanish
            p.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    out = stage.generator.network.proj_out.base_layer.weight
    out.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    batch = Feed(recipe, accelerator.device).next()
    terms, _ = stage._generator_terms(batch)
    terms["mse"].backward()
    got, along = unit_gradient(stage.generator)

    network = copy.deepcopy(stage.generator.network).double()
    vae = copy.deepcopy(stage._vae).double()
    target, degraded = batch.target.double(), batch.degraded.double()
    t = float(recipe.lora.timestep)
    s = t / 1000
    k = ((1 - s) ** 2 + s**2) ** 0.5
    tokens, pooled = torch.zeros(2, 1, 64).double(), torch.zeros(2, 64).double()

    @torch.no_grad()
    def loss():
        x_t = k * vae.encoder(degraded)
        v = network(x_t, tokens, pooled, torch.full((2,), t), return_dict=False)[0]
        return F.mse_loss(vae.decoder(x_t - s * v), target)

    named = {f"network.{n}": p for n, p in network.named_parameters() if ".lora_" in n}
    assert float(loss()) == pytest.approx(terms["mse"].item(), rel=1e-5)
    assert got == pytest.approx(slope(named, along, loss), rel=1e-3)


@pytest.mark.parametrize(
    ("target", "logarithm"), [("frozen", False), ("both", False), ("frozen", True)]
)
def test_the_encoder_loss_has_the_gradient_of_its_formula(
    make_recipe, accelerator, target, logarithm
):
    name = "log_mse" if logarithm else "mse"
    weights = {"encoder_mse": 0.0, f"encoder_{name}": 1.0}
    recipe = make_recipe(stages=("encoder",), encoder_target=target, **weights)
    stage = EncoderStage(recipe, accelerator)
    batch = Feed(recipe, accelerator.device).next()
    # from the second step on, the encoder is no longer the frozen one
    for p in trainable(stage.encoder).values():
        p.data += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    (value,) = stage.terms(batch).values()
    value.backward()
    got, along = unit_gradient(stage.encoder)

    trained, vae = copy.deepcopy(stage.encoder).double(), copy.deepcopy(stage._vae).double()
    clean_encoder = trained.encoder if target == "both" else vae.encoder

    @torch.no_grad()
    def loss():
        good = vae.decoder(clean_encoder(batch.target.double()))
        bad = vae.decoder(trained.encoder(batch.degraded.double()))
        errors = ((bad - good) ** 2).mean(dim=(1, 2, 3))
        return (errors + 1e-4).log().mean() if logarithm else errors.mean()

    assert float(loss()) == pytest.approx(value.item(), rel=1e-4 if logarithm else 1e-5)
    assert got == pytest.approx(slope(trainable(trained), along, loss), rel=1e-3)
