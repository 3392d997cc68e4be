"""Experiments on the trained model: controls, timesteps and steps."""

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import Tensor

from hypir.metrics import detail_ratio
from hypir.noise import standard_normal
from hypir.texture import measure_richness
from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.architectures import Condition
from hypir.train.feed import Batch
from hypir.train.generator import Generator, call_network, frozen_encoder
from hypir.train.models import load_base
from hypir.train.validation import to_image

from .finding import FAILS, HOLDS, UNDECIDED, Finding, Panel, all_of, clearly_above
from .trials import STRENGTHS, Lab, held_out, mean_and_deviation, psnr, restore, spread

NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
RICHNESSES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TIMESTEPS = (25, *range(50, 501, 50))
WITHIN = 75
"""How near to the best timestep a prediction must lie."""
STEPS = (1, 10, 50)
NOISED = 364
"""Timestep to which ordinary sampling noises the latent first."""
AIM = 0.95


def noise(lab: Lab) -> Finding:
    """Noise strength against diversity and fidelity."""
    stage = lab.trained()
    found = {n: [_noisy(stage, seed, n) for seed in lab.seeds] for n in NOISES}
    rows = [
        (f"{n:.1f}", *(mean_and_deviation(column) for column in zip(*values, strict=True)))
        for n, values in found.items()
    ]
    means = [[fmean(column) for column in zip(*values, strict=True)] for values in found.values()]
    spreads, psnrs, details = (list(column) for column in zip(*means, strict=True))
    holds = spreads == sorted(spreads) and psnrs == sorted(psnrs, reverse=True)
    return Finding(
        "noise",
        "Noise strength",
        "More injected noise gives more diverse results that follow the input less.",
        "The small model on three sets of held-out images with medium degradation. Spread is the "
        "standard deviation over four noise seeds, in levels of 255.",
        ("noise", "spread", "PSNR", "detail"),
        rows,
        HOLDS if holds else FAILS,
        f"the spread goes from {spreads[0]:.2f} to {spreads[-1]:.2f}, PSNR from {psnrs[0]:.2f} to "
        f"{psnrs[-1]:.2f} dB, detail from {details[0]:.2f} to {details[-1]:.2f} of the target's",
        (
            Panel("noise strength", "spread, levels of 255", {"spread": (list(NOISES), spreads)}),
            Panel("noise strength", "PSNR, dB", {"PSNR": (list(NOISES), psnrs)}),
        ),
    )


def _noisy(stage: AdversarialStage, seed: int, strength: float) -> tuple[float, float, float]:
    batch = held_out("medium", seed)
    result = restore(stage, batch, strength, seed)
    detail = float(detail_ratio(to_image(result), to_image(batch.target)).mean())
    return spread(stage, batch, strength), psnr(result, batch.target), detail


def richness(lab: Lab) -> Finding:
    """Richness asked against richness measured."""
    stage = lab.trained()
    correlations, measured = [], torch.zeros(len(RICHNESSES))
    for seed in lab.seeds:
        batch = held_out("medium", seed)
        got = []
        for asked in RICHNESSES:
            result = restore(stage, batch, richness=torch.full((len(batch.target),), asked))
            got.append(measure_richness(to_image(result)))
        table = torch.stack(got)  # (asked, picture)
        correlations += [_rank_correlation(column) for column in table.T]
        measured += table.mean(dim=1) / len(lab.seeds)
    correlation = fmean(correlations)
    return Finding(
        "richness",
        "Texture richness",
        "The requested richness determines the richness of the result.",
        "The richness token of the small model from 0.3 to 0.9, on three sets of held-out images "
        "with medium degradation. The table gives the mean that HYPIR Measure Texture measures on "
        "the results.",
        ("requested", "measured"),
        [(f"{a:.1f}", f"{m:.3f}") for a, m in zip(RICHNESSES, measured.tolist(), strict=True)],
        HOLDS if correlation >= AIM else FAILS,
        f"Spearman's rank correlation is {correlation:.3f}, mean over images (target {AIM})",
        (
            Panel(
                "richness asked",
                "richness",
                {
                    "measured": (list(RICHNESSES), measured.tolist()),
                    "asked": (list(RICHNESSES),) * 2,
                },
            ),
        ),
    )


def _rank_correlation(values: Tensor) -> float:
    """Spearman's, of rising positions and values."""
    ranks = values.argsort().argsort().double()
    places = torch.arange(len(values), dtype=torch.float64)
    return float(torch.corrcoef(torch.stack([ranks, places]))[0, 1])


def timesteps(lab: Lab) -> Finding:
    """Where the best timestep of the prior alone lies, and whether it can be predicted."""
    curves, turned, rows = {}, {}, []
    found: list[tuple[int, float]] = []
    told = lab.trained().generator.timestep
    stage = lab.stage(lab.recipe(0, texture=False, gan=0.0, rank=1))
    clean = frozen_encoder(load_base(lab.recipe(0)).vae, stage.prior)
    for preset in STRENGTHS:
        pairs = _encoded(stage, [held_out(preset, seed) for seed in lab.seeds])
        both, plain, coefficient = (
            {t: fmean(_prior_alone(stage, *pair, *how(t)) for pair in pairs) for t in TIMESTEPS}
            for how in (lambda t: (t, t), lambda t: (t, t, 1.0), lambda t: (told, t))
        )
        best, of_plain, of_coefficient = (max(v, key=v.get) for v in (both, plain, coefficient))
        predicted = fmean(_predicted_timestep(clean, *pair) for pair in pairs)
        found.append((best, predicted))
        curves[preset] = (list(TIMESTEPS), list(both.values()))
        turned[preset] = (list(TIMESTEPS), list(coefficient.values()))
        rows.append(
            (
                preset,
                f"{best}: {both[best]:.2f}",
                f"{of_plain}: {plain[of_plain]:.2f}",
                f"{of_coefficient}: {coefficient[of_coefficient]:.2f}",
                f"{predicted:.0f}",
            )
        )
    return Finding(
        "timesteps",
        "Timestep of the prior alone",
        "The distance between the degraded latent and the clean one determines the noise level at "
        "which it resembles a noisy latent (the kernel gap of theorem 4.1).",
        "One step of the prior without a LoRA, after the encoder, at timesteps 25 to 500, on three "
        "sets of images. Both: t is given to the network and used to compute x0. k = 1: the same "
        f"without the input scale. Coefficient: the network is given {told}, and t is used only to "
        "compute x0. Predicted: s / (1 - s) = standard deviation of the encoder's error in the "
        "latent, t = 1000 s. PSNR in dB at the best t.",
        ("degradation", "best, both", "best, k = 1", "best, coefficient", "predicted t"),
        rows,
        place_verdict(found),
        f"best at {', '.join(str(b) for b, _ in found)} for {', '.join(STRENGTHS)}; predicted: "
        f"{', '.join(f'{p:.0f}' for _, p in found)}",
        (
            Panel("timestep", "PSNR, dB (both)", curves),
            Panel("coefficient timestep", f"PSNR, dB (told {told})", turned),
        ),
    )


def place_verdict(found: Sequence[tuple[float, float]]) -> str:
    """Of (best, predicted) from mild to severe: both must rise, and lie within WITHIN.

    UNDECIDED where a best place is at an end of what was tried, so that it may lie beyond.
    """
    best, predicted = zip(*found, strict=True)
    if any(b in (TIMESTEPS[0], TIMESTEPS[-1]) for b in best):
        return UNDECIDED
    rise = all(list(x) == sorted(x) for x in (best, predicted))
    near = all(abs(b - p) <= WITHIN for b, p in found)
    return HOLDS if rise and near else FAILS


@torch.no_grad()
def _encoded(stage: AdversarialStage, batches: Sequence[Batch]) -> list[tuple[Batch, Tensor]]:
    """Each with its scaled latents."""
    return [(batch, stage._encoder(batch.degraded)) for batch in batches]


@torch.no_grad()
def _prior_alone(
    stage: AdversarialStage,
    batch: Batch,
    z: Tensor,
    told: int,
    coefficient: int,
    k: float | None = None,
) -> float:
    """PSNR of one step at other timesteps; k None: the scale that belongs to `told`."""
    if k is None:
        k = stage.prior.input_scale_at(told)
    generator = Generator(stage.prior, stage.generator.network, told, coefficient, k)
    condition = stage._text.encode(batch.captions, z.device)
    return psnr(stage.decode(generator(z, condition.tokens, condition.pooled)), batch.target)


@torch.no_grad()
def _predicted_timestep(clean: torch.nn.Module, batch: Batch, z: Tensor) -> float:
    ratio = float((z - clean(batch.target)).std())
    return 1000 * ratio / (1 + ratio)


def steps(lab: Lab) -> Finding:
    """One step against ordinary sampling."""
    stage = lab.trained()
    one_step = stage.generator.one_step
    times = {"timestep": stage.generator.timestep, "input_scale": one_step.input_scale}
    prior = lab.stage(lab.recipe(0, texture=False, gan=0.0, rank=1, **times))
    batches = [held_out("medium", seed) for seed in lab.seeds]
    ways: dict[str, Callable[[Batch], Tensor]] = {"HYPIR, 1 step": lambda b: restore(stage, b)}
    for count in STEPS:
        ways[_named("from the latent", count)] = partial(_sampled, prior, count=count)
    for count in STEPS[1:]:
        ways[_named(f"noised to {NOISED}", count)] = partial(
            _sampled, prior, count=count, noised=True
        )
    errors = {name: [psnr(way(b), b.target) for b in batches] for name, way in ways.items()}
    seconds = {name: _median_time(way, batches[0]) for name, way in ways.items()}
    ours, *others = ways
    taken = {name: seconds[name] / seconds[ours] for name in ways}
    best = max(others, key=lambda n: fmean(errors[n]))
    rows = [(n, mean_and_deviation(errors[n]), f"{taken[n]:.2f}") for n in ways]
    near = FAILS if clearly_above(errors[best], errors[ours]) else HOLDS
    fast = HOLDS if taken[_named("from the latent", STEPS[-1])] > 1.5 else FAILS
    return Finding(
        "steps",
        "One step against many",
        "One step restores as well as multi-step sampling, in a fraction of the time.",
        "The small model in one step, compared with its prior without the LoRA in 1, 10 and 50 "
        "Euler steps of the flow: from the same latent at the same noise level (t = "
        f"{times['timestep']}), and from the latent with noise added up to t = {NOISED}, as in "
        "image-to-image. Only the first was trained to restore; it also gets the richness of the "
        "target. The time includes encoding and decoding, relative to HYPIR; median of three runs.",
        ("method", "PSNR, medium", "time"),
        rows,
        all_of([near, fast]),
        f"HYPIR {fmean(errors[ours]):.2f} dB, the best of the others {fmean(errors[best]):.2f} dB "
        f"({best}); 50 steps take {taken[_named('from the latent', 50)]:.1f} times as long",
        (
            Panel(
                "time, HYPIR = 1",
                "PSNR, dB",
                {name: ([taken[name]], [fmean(errors[name])]) for name in ways},
            ),
        ),
    )


def _named(start: str, count: int) -> str:
    return f"{start}, {count} step{'s' if count > 1 else ''}"


def _median_time(way: Callable[[Batch], Tensor], batch: Batch) -> float:
    """Of three runs after a first one."""
    way(batch)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        way(batch)
        times.append(time.perf_counter() - began)
    return sorted(times)[1]


@torch.no_grad()
def _sampled(stage: AdversarialStage, batch: Batch, count: int, noised: bool = False) -> Tensor:
    """Euler's steps of the flow to 0, from the degraded latent scaled by k, or noised to NOISED."""
    generator, prior = stage.generator, stage.prior
    encoded = stage._text.encode(batch.captions, batch.target.device)
    condition = Condition(encoded.tokens, encoded.pooled)
    z = stage._encoder(batch.degraded)
    start = NOISED / 1000 if noised else generator.one_step.model_level.sigma
    x = generator.one_step.input_scale * z
    if noised:
        noise = torch.stack([standard_normal(z.shape[1:], seed) for seed in range(len(z))])
        x = (1 - start) * z + start * noise
    levels = torch.linspace(start, 0, count + 1).tolist()
    for s, following in itertools.pairwise(levels):
        t = torch.full((len(x),), 1000 * s)
        v = call_network(prior, generator.network, x, t, condition, generator.conditions)
        x = x + (following - s) * v
    return stage.decode(x)
