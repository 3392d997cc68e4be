"""What a generator starts from: the prior's weights, its size, the encoder before it."""

import itertools
import math
from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from hypir.train.architectures.tiny import tiny_network
from hypir.train.engine import make_accelerator
from hypir.train.run import train
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from hypir.weight_files import write_tensors

from .finding import FAILS, HOLDS, UNDECIDED, Finding, Panel, all_of, by_comparison, clearly_above
from .tables import MEASURES, mean_curve, mean_psnr, of, psnr_panel, table
from .trials import FILES, Lab, mean_and_deviation

FULL_RANK = 192
"""As wide as the network: a LoRA of this rank can change a layer that it adapts into any other."""
FIRST_STEPS = 10
STEADY = 1.1
"""Least ratio of gradients that is told from 1."""
PSNR_LABEL = "PSNR of held-out pictures (medium), dB"


def initialisation(lab: Lab) -> Finding:
    """Diffusion initialisation against random initialisation."""
    judge = {"discriminator_weights": str(lab.model / FILES["prior_file"])}
    arms: dict[str, list[dict]] = {}
    for t in (100, 364):
        own = {"rank": FULL_RANK, "timestep": t, **judge}
        arms[f"diffusion, t = {t}"] = [own for _ in lab.seeds]
        arms[f"random, t = {t}"] = [{**own, "prior_file": _random_prior(lab, s)} for s in lab.seeds]
    runs = {
        name: [lab.trial(seed, **c) for seed, c in zip(lab.seeds, changes, strict=True)]
        for name, changes in arms.items()
    }
    columns: dict[str, Callable[[dict], float]] = {
        f"gradient, first {FIRST_STEPS} steps": lambda r: fmean(
            r["curves"]["gradient"][:FIRST_STEPS]
        ),
        "largest gradient": lambda r: max(r["curves"]["gradient"]),
        **MEASURES,
        "variety": of("variety"),
        "spread": of("spread"),
    }
    rows = [
        (name, *(mean_and_deviation([read(r) for r in found]) for read in columns.values()))
        for name, found in runs.items()
    ]
    parts, told = [], []
    gradient = next(iter(columns.values()))
    for t in (100, 364):
        good, bad = runs[f"diffusion, t = {t}"], runs[f"random, t = {t}"]
        ratios = [gradient(b) / gradient(a) for a, b in zip(good, bad, strict=True)]
        parts.append(by_ratio(ratios))
        reached = [_first_step(a, b) for a, b in zip(good, bad, strict=True)]
        parts.append(HOLDS if max(reached) <= lab.steps / 2 else FAILS)
        away = [[abs(1 - of("variety")(r)) for r in found] for found in (bad, good)]
        parts.append(by_comparison(*away))
        told.append(
            f"at t = {t}, the random start has {fmean(ratios):.2f} times the gradient of the "
            f"diffusion start over the first {FIRST_STEPS} steps ({parts[-3]}); the diffusion "
            "start reaches the final PSNR of the random start after "
            f"{', '.join(f'{r:g}' for r in reached)} of {lab.steps} steps, by seed ({parts[-2]}); "
            f"variety closer to that of the targets: {parts[-1]}"
        )
    panels = [
        Panel(
            "step",
            "gradient norm of the generator",
            {name: mean_curve([r["curves"]["gradient"] for r in f]) for name, f in runs.items()},
        ),
        Panel(
            "step",
            PSNR_LABEL,
            {
                name: (
                    f[0]["curves"]["psnr_step"],
                    mean_curve([r["curves"]["psnr"] for r in f])[1],
                )
                for name, f in runs.items()
            },
        ),
    ]
    return Finding(
        "initialisation",
        "Diffusion initialisation",
        "A generator that starts as a diffusion model has small, stable gradients from the first "
        "step (corollary 1), reaches an accuracy in fewer steps (proposition 4.4) and keeps the "
        "variety of the data (proposition 4.3).",
        "The same adversarial stage on the flow-matching prior and on random weights of the same "
        f"network, new ones for each seed, with a LoRA of rank {FULL_RANK} (the width of the "
        "network) on the linear layers; embeddings and modulation are not trained in either. The "
        "discriminator of both uses the features of the trained prior. At t = 100 the step starts "
        "near the identity, whatever the network contains; at 364 less so. Spread is that of the "
        "results over seeds of injected noise, in levels of 255. An untrained step passes all "
        "noise through, so the spread alone is no sign of variety.",
        ("start", *columns),
        rows,
        all_of(parts),
        "; ".join(told),
        tuple(panels),
    )


def by_ratio(ratios: Sequence[float]) -> str:
    """HOLDS where every seed's ratio is above STEADY, FAILS where every one is below 1."""
    if min(ratios) > STEADY:
        return HOLDS
    return FAILS if max(ratios) < 1 else UNDECIDED


def _random_prior(lab: Lab, seed: int) -> str:
    path = lab.out / f"random_prior_{seed}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_tensors(path, tiny_network(3).state_dict(), {"hypir.prior": "sd3"})
    return str(path)


def _first_step(good: dict, bad: dict) -> float:
    """When `good` is as near to the truth as `bad` at its end; infinity for never."""
    goal, own = bad["curves"]["psnr"][-1], good["curves"]
    steps = (s for s, p in zip(own["psnr_step"], own["psnr"], strict=True) if p >= goal)
    return next(steps, math.inf)


def pre_removal(lab: Lab) -> Finding:
    """The degradation-removal encoder, on and off."""
    variants = {
        "with": {},
        "without": {"encoder_file": ""},
        "without, t = 364": {"encoder_file": "", "timestep": 364},
    }
    rows, values = table(lab, variants, MEASURES)
    column = "PSNR, heavy"
    with_it, *without = (v[column] for v in values.values())
    best = max(without, key=fmean)
    return Finding(
        "pre_removal",
        "Degradation pre-removal",
        "Without the degradation-removal encoder, the step misinterprets degraded content.",
        "The adversarial stage after the trained encoder, after the original encoder, and after "
        "the original encoder at a higher noise level, which leaves more work to the step.",
        ("encoder", *MEASURES),
        rows,
        by_comparison(with_it, best),
        "with the encoder, PSNR on heavy degradation changes by "
        f"{fmean(with_it) - fmean(best):+.2f} dB compared with the better timestep without it",
        (psnr_panel(lab, variants),),
    )


def prior_sizes(lab: Lab) -> Finding:
    """Depth 1, 2 and 3, trained alike."""
    steps = 3 * lab.steps
    found: dict[str, list[dict]] = {}
    for depth, seed in itertools.product((1, 2, 3), lab.seeds):
        out = lab.out / f"prior_depth_{depth}_seed_{seed}_steps_{steps}"
        recipe = once(
            stages=("diffusion",),
            seed=seed,
            depth=depth,
            autoencoder_file=str(lab.model / FILES["autoencoder_file"]),
            diffusion=(Phase(steps, 16, 1e-3),),
            crop=64,
            batch=16,
            pool_uses=4,
            ema=0.98,
            warmup=50,
            precision="no",
            export="fp32",
            out=str(out),
        )
        train(recipe, make_accelerator(recipe.engine, cpu=True))
        file = str(out / "prior.safetensors")
        found.setdefault(str(depth), []).append(
            lab.trial(seed, depth=depth, prior_file=file, gan=0.0)
        )
    values = {
        n: {c: [read(t) for t in f] for c, read in MEASURES.items()} for n, f in found.items()
    }
    rows = [(name, *map(mean_and_deviation, v.values())) for name, v in values.items()]
    psnrs = [mean_psnr(v) for v in values.values()]
    turned = any(clearly_above(a, b) for a, b in itertools.pairwise(psnrs))
    curves = {
        f"depth {n}": (
            f[0]["curves"]["psnr_step"],
            mean_curve([t["curves"]["psnr"] for t in f])[1],
        )
        for n, f in found.items()
    }
    return Finding(
        "prior_sizes",
        "Size of the prior",
        "A larger prior restores better.",
        "Networks of depth 1, 2 and 3 (width 64 times depth). For each seed they are trained by "
        f"flow matching for {steps} steps, then as a generator without a GAN, because the weight "
        "of a GAN would grow with the depth.",
        ("depth", *MEASURES),
        rows,
        FAILS if turned else by_comparison(psnrs[-1], psnrs[0]),
        f"{', '.join(f'{fmean(p):.2f}' for p in psnrs)} dB at depth 1, 2, 3, averaged "
        f"over degradations",
        (Panel("step", PSNR_LABEL, curves),),
    )
