"""Experiments that train with other settings: losses, ranks, discriminators, timesteps, words."""

import itertools
import math
from collections.abc import Sequence
from statistics import fmean

from hypir.train.adversary import TIMM_MODELS

from .finding import (
    FAILS,
    HOLDS,
    OPEN,
    UNDECIDED,
    Finding,
    Panel,
    all_of,
    by_comparison,
    clearly_above,
)
from .tables import MEASURES, mean_psnr, psnr_panel, table
from .trials import Lab, held_out, mean_and_deviation, psnr, restore

WORDS = ("right", "wrong", "none")
LONGER = 4
"""Times as many steps for words: their tokens begin at nothing."""


def discriminators(lab: Lab) -> Finding:
    """Backbones of the discriminator."""
    variants = {
        "features of the prior": {},
        "convolutions from scratch": {"discriminator": "patch"},
        "none": {"gan": 0.0},
    }
    columns = {
        **MEASURES,
        "D accuracy": lambda r: fmean(r["curves"].get("d_accuracy", [math.nan])[-20:]),
    }
    rows, _ = table(lab, variants, columns)
    rows = [(*row[:-1], row[-1].replace("diverged", "-")) for row in rows]
    return Finding(
        "discriminators",
        "Backbones of the discriminator",
        "Of DINO, CLIP, diffusion features and ConvNeXt, the last gives the finest texture.",
        "Three variants: the prior's own features, a convolutional network on pixels trained from "
        "scratch, and no discriminator. The others are pretrained networks "
        f"({', '.join(sorted(TIMM_MODELS.values()))}), which were not available.",
        ("discriminator", *columns),
        rows,
        OPEN,
        "pretrained ConvNeXt, DINO and CLIP were not available",
        (psnr_panel(lab, variants),),
    )


def ranks(lab: Lab) -> Finding:
    """Rank of the LoRA."""
    variants = {str(rank): {"rank": rank} for rank in (8, 16, 32, 64)}
    rows, values = table(lab, variants, MEASURES)
    psnrs = [mean_psnr(v) for v in values.values()]
    gains = [fmean(b) - fmean(a) for a, b in itertools.pairwise(psnrs)]
    parts = [by_comparison(psnrs[-1], psnrs[0])]
    parts.append(HOLDS if gains[-1] < gains[0] else UNDECIDED)
    return Finding(
        "ranks",
        "Rank of the LoRA",
        "A higher rank restores better, with diminishing gains.",
        "Ranks 8 to 64 on a network of width 192, trained in the same way.",
        ("rank", *MEASURES),
        rows,
        all_of(parts),
        f"each doubling changes PSNR by {', '.join(f'{g:+.2f}' for g in gains)} dB, averaged over "
        "degradations",
        (psnr_panel(lab, variants),),
    )


def losses(lab: Lab) -> Finding:
    """Losses one at a time."""
    none = {"latent": 0.0, "gan": 0.0}
    every = {"energy": 0.1, "energy_side": 48}
    variants = {
        "all": every,
        "all but GAN": {**every, "gan": 0.0},
        "MSE of pixels alone": {**none, "mse": 1.0},
        "MSE of latents alone": {**none, "latent": 1.0},
        "amount of detail alone": {**none, "energy": 1.0, "energy_side": 48},
        "GAN alone": {**none, "gan": 0.5},
    }
    rows, values = table(lab, variants, MEASURES)
    away = {n: [abs(1 - d) for d in v["detail"]] for n, v in values.items()}
    psnrs = {name: mean_psnr(v) for name, v in values.items()}
    correlation = {name: v["correlation"] for name, v in values.items()}
    parts = [
        by_comparison(away["all but GAN"], away["all"]),
        FAILS if clearly_above(correlation["all but GAN"], correlation["all"]) else HOLDS,
        by_comparison(psnrs["MSE of latents alone"], psnrs["GAN alone"])
        if all(map(math.isfinite, psnrs["GAN alone"]))
        else HOLDS,
    ]
    detail = {name: fmean(v["detail"]) for name, v in values.items()}
    return Finding(
        "losses",
        "Losses one at a time",
        "The adversarial loss adds the texture that MSE averages away; MSE ensures fidelity.",
        "The adversarial stage with all losses (error of latents, amount of detail in pixels, "
        "GAN), without the GAN, and with a single loss. LPIPS needs a backbone that was not "
        "available.",
        ("losses", *MEASURES),
        rows,
        all_of(parts),
        f"detail is {detail['all']:.2f} of the target's with all losses and "
        f"{detail['all but GAN']:.2f} without the GAN ({parts[0]}), at a correlation of "
        f"{fmean(correlation['all']):.3f} and {fmean(correlation['all but GAN']):.3f} "
        f"({parts[1]}); MSE alone is closer to the target than the GAN alone ({parts[2]})",
        (psnr_panel(lab, variants),),
    )


def timesteps_trained(lab: Lab) -> Finding:
    """The timestep, when the network is trained at it, and the input scale."""
    variants = {str(t): {"timestep": t} for t in (100, 364, 600)}
    variants["364, k = 1"] = {"timestep": 364, "input_scale": 1.0}
    rows, values = table(lab, variants, MEASURES)
    psnrs = {name: mean_psnr(v) for name, v in values.items()}
    best = max(("100", "364", "600"), key=lambda n: fmean(psnrs[n]))
    ours = by_comparison(psnrs["100"], psnrs["364"])
    scaled = by_comparison(psnrs["364"], psnrs["364, k = 1"])
    return Finding(
        "timesteps_trained",
        "Timestep and input scale in training",
        "The paper does not say which timestep is right for a flow model, or whether its input "
        "must be scaled by k. We use 364, which has the signal-to-noise ratio of SD2's 200, for "
        "SD3 and Flux, 100 for the small model, and k = sqrt((1-s)^2 + s^2).",
        "The adversarial stage at three timesteps, and at 364 without the scale (0.733).",
        ("timestep", *MEASURES),
        rows,
        all_of([ours, scaled]),
        f"{best} is best; 100 compared with 364: "
        f"{fmean(psnrs['100']) - fmean(psnrs['364']):+.2f} dB ({ours}); k compared with 1 at 364: "
        f"{fmean(psnrs['364']) - fmean(psnrs['364, k = 1']):+.2f} dB ({scaled})",
        (psnr_panel(lab, variants),),
    )


def contents(lab: Lab) -> Finding:
    """Conditioning by content: texture classes as words."""
    classes = ("stripes", "checks", "rough")
    data = tuple(f"leaves:{name}" for name in classes)
    changes = {"data": data, "caption_drop": 0.3, "texture": False}
    changes["adversarial"] = lab.phases(LONGER * lab.steps)
    trials = [lab.trial(seed, _judge_contents(classes), **changes) for seed in lab.seeds]
    presets = ("light", "heavy")
    gains = {(p, w): [t[f"{p}/{w}"] for t in trials] for p in presets for w in WORDS}
    rows = [(p, *(mean_and_deviation(gains[p, w]) for w in WORDS)) for p in presets]

    def gain(preset: str, word: str) -> list[float]:
        pairs = zip(gains[preset, word], gains[preset, "none"], strict=True)
        return [told - untold for told, untold in pairs]

    nothing = [0.0] * len(trials)
    harm = [abs(x) for x in gain("light", "wrong")]
    parts = [
        by_comparison(gain("heavy", "right"), nothing),
        by_comparison(nothing, gain("heavy", "wrong")),
        by_comparison([abs(x) for x in gain("heavy", "wrong")], harm),
    ]
    means = [fmean(gain(p, w)) for p in presets for w in ("right", "wrong")]
    curves = {w: ([0.0, 1.0], [fmean(gains[p, w]) for p in presets]) for w in WORDS}
    return Finding(
        "contents",
        "Conditioning by content",
        "A correct prompt helps; a wrong one is ignored unless the image is badly degraded.",
        "Dead leaves images with one texture each (stripes, checks, rough noise). In training, a "
        "token names the texture and is dropped at random; there is no richness token. Then images "
        f"are restored with the right token, a wrong one, or none. Training takes {LONGER} times "
        "as many steps as elsewhere, because the tokens start from zero. PSNR in dB on four images "
        "of each texture.",
        ("degradation", *WORDS),
        rows,
        all_of(parts),
        f"compared with no token, the right one changes PSNR by {means[0]:+.3f} dB on light and "
        f"{means[2]:+.3f} dB on heavy degradation ({parts[0]}), a wrong one {means[1]:+.3f} and "
        f"{means[3]:+.3f} dB ({parts[1]}), with a larger effect on heavy ({parts[2]})",
        (Panel("degradation (0 light, 1 heavy)", "PSNR, dB", curves),),
    )


def _judge_contents(classes: Sequence[str]):
    def judge(stage) -> dict:
        result: dict[str, list[float]] = {}
        for i, name in enumerate(classes):
            words = {"right": name, "wrong": classes[(i + 1) % len(classes)], "none": ""}
            for preset in ("light", "heavy"):
                batch = held_out(preset, 0, name, 4)
                for told, word in words.items():
                    batch.captions = [word] * len(batch.captions)
                    value = psnr(restore(stage, batch), batch.target)
                    result.setdefault(f"{preset}/{told}", []).append(value)
        return {key: fmean(values) for key, values in result.items()}

    return judge
