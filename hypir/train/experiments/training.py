"""Experiments that train: where the start, the encoder, the losses and the sizes matter."""

import itertools
from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from hypir.weight_files import write_tensors

from ..discriminators import TIMM_MODELS
from ..recipes import Phase, tiny
from ..run import train
from ..small_models import tiny_network
from .finding import FAILS, HOLDS, OPEN, Finding
from .trials import FILES, Lab, held_out, mean_and_deviation, psnr, restore

FULL_RANK = 192
"""As wide as the network: a LoRA of this rank can change a layer into any other."""
FIRST_STEPS = 10
NEAR = 0.03
"""Smallest difference in dB that is told from none, beside the spread over seeds."""


def table(
    lab: Lab, variants: dict[str, dict], columns: dict[str, Callable[[dict], float]]
) -> tuple[list[tuple[str, ...]], dict[str, dict[str, list[float]]]]:
    """Rows of mean and deviation over seeds, and the values: variant -> column -> seeds."""
    values = {
        name: {
            column: [measure(lab.trial(seed, **changes)) for seed in lab.seeds]
            for column, measure in columns.items()
        }
        for name, changes in variants.items()
    }
    rows = [(name, *map(mean_and_deviation, found.values())) for name, found in values.items()]
    return rows, values


def of(name: str) -> Callable[[dict], float]:
    """A measure by its name."""
    return lambda result: result[name]


MEASURES = {
    "PSNR, medium": of("psnr_medium"),
    "PSNR, heavy": of("psnr_heavy"),
    "detail": of("detail"),
    "correlation": of("correlation"),
}


def psnr_curves(lab: Lab, variants: dict[str, dict]) -> dict:
    """Mean over seeds of the PSNR by step."""
    result = {}
    for name, changes in variants.items():
        runs = [lab.trial(seed, **changes)["curves"] for seed in lab.seeds]
        result[name] = (
            runs[0]["psnr_step"],
            [fmean(p) for p in zip(*(r["psnr"] for r in runs), strict=True)],
        )
    return result


def clearly_above(a: Sequence[float], b: Sequence[float], least: float = NEAR) -> bool:
    """Whether the mean of a lies above that of b by more than both spreads and `least`."""
    spread = max(max(x) - min(x) for x in (a, b)) / 2
    return fmean(a) - fmean(b) > max(spread, least)


def initialisation(lab: Lab) -> Finding:
    """Diffusion initialisation against random initialisation."""
    random = lab.out / "random_prior.safetensors"
    torch.manual_seed(0)
    write_tensors(random, tiny_network(3).state_dict(), {"hypir.prior": "sd3"})
    variants = {
        "diffusion": {"rank": FULL_RANK},
        "random": {"rank": FULL_RANK, "prior_file": str(random)},
    }

    def gradient(result: dict) -> float:
        return fmean(result["curves"]["gradient"][:FIRST_STEPS])

    columns = {
        f"gradient, first {FIRST_STEPS} steps": gradient,
        "largest gradient": lambda r: max(r["curves"]["gradient"]),
        **MEASURES,
        "variety": of("variety"),
        "spread": of("spread"),
    }
    rows, values = table(lab, variants, columns)
    first = f"gradient, first {FIRST_STEPS} steps"
    ratio = fmean(values["random"][first]) / fmean(values["diffusion"][first])
    reached = []
    for seed in lab.seeds:
        goal = lab.trial(seed, **variants["random"])["curves"]["psnr"][-1]
        own = lab.trial(seed, **variants["diffusion"])["curves"]
        steps = [s for s, p in zip(own["psnr_step"], own["psnr"], strict=True) if p >= goal]
        reached.append(steps[0] if steps else float("inf"))
    holds = ratio > 1 and all(step < lab.steps for step in reached)
    return Finding(
        "initialisation",
        "Diffusion initialisation",
        "A generator that starts as a diffusion model has small, stable gradients from the first "
        "step (corollary 1), reaches an accuracy in fewer steps (proposition 4.4) and keeps the "
        "variety of the data (proposition 4.3).",
        f"The same adversarial stage on the flow-matching prior and on random weights of the same "
        f"network, LoRA of rank {FULL_RANK} (the width of the network) in both.",
        ("start", *columns),
        rows,
        HOLDS if holds else FAILS,
        f"the gradient of the random start is {ratio:.2f} times that of the diffusion start over "
        f"the first {FIRST_STEPS} steps; what the random start reaches after {lab.steps} steps, "
        f"the other has after {', '.join(map(str, reached))} (by seed)",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def pre_removal(lab: Lab) -> Finding:
    """The degradation-removal encoder, on and off."""
    variants = {"with": {}, "without": {"encoder_file": ""}}
    rows, values = table(lab, variants, MEASURES)
    column = "PSNR, heavy"
    better = clearly_above(values["with"][column], values["without"][column])
    gain = fmean(values["with"][column]) - fmean(values["without"][column])
    return Finding(
        "pre_removal",
        "Degradation pre-removal",
        "Without the encoder that removes degradation the step misreads what is degraded.",
        "The adversarial stage behind the trained encoder and behind the plain one.",
        ("encoder", *MEASURES),
        rows,
        HOLDS if better else FAILS,
        f"with it heavy degradation is restored {gain:+.2f} dB nearer to the truth",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def discriminators(lab: Lab) -> Finding:
    """Backbones of the discriminator."""
    variants = {"features of the prior": {}, "none": {"gan": 0.0}}
    columns = {
        **MEASURES,
        "D accuracy": lambda r: fmean(r["curves"].get("d_accuracy", [float("nan")])[-20:]),
    }
    rows, _ = table(lab, variants, columns)
    return Finding(
        "discriminators",
        "Backbones of the discriminator",
        "Of DINO, CLIP, diffusion features and ConvNeXt, the last gives the finest texture.",
        "The prior's own features, against no discriminator. The others are pretrained networks "
        f"({', '.join(sorted(TIMM_MODELS.values()))}), which cannot be had here.",
        ("discriminator", *columns),
        rows,
        OPEN,
        "pretrained ConvNeXt, DINO and CLIP were not at hand",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def ranks(lab: Lab) -> Finding:
    """Rank of the LoRA."""
    variants = {str(rank): {"rank": rank} for rank in (4, 16, 32, 64)}
    rows, values = table(lab, variants, MEASURES)
    column = "PSNR, medium"
    means = [fmean(v[column]) for v in values.values()]
    gains = [b - a for a, b in itertools.pairwise(means)]
    holds = means[-1] > means[0] and gains[-1] < gains[0]
    return Finding(
        "ranks",
        "Rank of the LoRA",
        "A higher rank restores better, with gains that diminish.",
        "Rank 4 to 64 on a network 192 wide.",
        ("rank", *MEASURES),
        rows,
        HOLDS if holds else FAILS,
        f"from rank to rank {', '.join(f'{g:+.2f}' for g in gains)} dB on medium degradation",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def losses(lab: Lab) -> Finding:
    """Losses one at a time."""
    none = {"mse": 0.0, "pyramid": 0.0, "energy": 0.0, "gan": 0.0}
    variants = {
        "all": {},
        "MSE alone": {**none, "mse": 1.0},
        "pyramid alone": {**none, "pyramid": 1.0},
        "amount of detail alone": {**none, "energy": 4.0},
        "GAN alone": {**none, "gan": 0.5},
        "all but GAN": {"gan": 0.0},
    }
    rows, values = table(lab, variants, MEASURES)
    detail = {name: fmean(v["detail"]) for name, v in values.items()}
    near = {name: fmean(v["PSNR, medium"]) for name, v in values.items()}
    holds = detail["GAN alone"] > detail["MSE alone"] and near["MSE alone"] > near["GAN alone"]
    return Finding(
        "losses",
        "Losses one at a time",
        "The adversarial term brings the texture that MSE averages away, and MSE the likeness.",
        "The adversarial stage with one term only, and with all. LPIPS needs a backbone that "
        "cannot be had here.",
        ("losses", *MEASURES),
        rows,
        HOLDS if holds else FAILS,
        f"detail {detail['MSE alone']:.2f} of the truth's with MSE alone, "
        f"{detail['GAN alone']:.2f} with the GAN alone, {detail['all']:.2f} with all",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def timesteps_trained(lab: Lab) -> Finding:
    """The timestep, when the network is trained at it, and the input scale."""
    variants = {str(t): {"timestep": t} for t in (100, 200, 364, 600)}
    variants["364, k = 1"] = {"input_scale": 1.0}
    rows, values = table(lab, variants, MEASURES)
    column = "PSNR, medium"
    best = max((n for n in values), key=lambda n: fmean(values[n][column]))
    k, one = values["364"][column], values["364, k = 1"][column]
    return Finding(
        "timesteps_trained",
        "Timestep and input scale in training",
        "Which timestep is right for a flow prior, and whether its input must be scaled by k, are "
        "not published. Ours: 364, the signal-to-noise ratio of SD2's 200, and "
        "k = sqrt((1-s)^2 + s^2).",
        "The adversarial stage at four timesteps, and at 364 without the scale.",
        ("timestep", *MEASURES),
        rows,
        HOLDS
        if not clearly_above(one, k) and not clearly_above(values[best][column], k)
        else FAILS,
        f"best is {best}; k against 1 at 364: {fmean(k) - fmean(one):+.2f} dB",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )


def contents(lab: Lab) -> Finding:
    """Conditioning by content: texture classes as words."""
    classes = ("stripes", "checks", "rough")
    data = tuple(f"leaves:{name}" for name in classes)
    changes = {"data": data, "caption_drop": 0.3, "crop": 64}
    gains: dict[tuple[str, str], list[float]] = {}
    for seed in lab.seeds:
        result = lab.trial(seed, _judge_contents(classes), **changes)
        for preset, told in itertools.product(("light", "heavy"), ("right", "wrong", "none")):
            gains.setdefault((preset, told), []).append(result[f"{preset}/{told}"])
    told = ("right", "wrong", "none")
    rows = [
        (preset, *(mean_and_deviation(gains[preset, word]) for word in told))
        for preset in ("light", "heavy")
    ]
    right, wrong = (
        {p: fmean(gains[p, w]) - fmean(gains[p, "none"]) for p in ("light", "heavy")}
        for w in ("right", "wrong")
    )
    holds = right["heavy"] > NEAR and abs(wrong["light"]) < NEAR
    return Finding(
        "contents",
        "Conditioning by content",
        "A right prompt helps; a wrong one is ignored unless the picture is very bad.",
        "Dead leaves of one texture each (stripes, checks, rough noise), told by a token of its "
        "own in training, dropped at random; then restored when told right, wrong or nothing. PSNR "
        "in dB.",
        ("degradation", *told),
        rows,
        HOLDS if holds else FAILS,
        f"told right: {right['light']:+.3f} dB light, {right['heavy']:+.3f} dB heavy; told wrong: "
        f"{wrong['light']:+.3f} and {wrong['heavy']:+.3f}",
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


def prior_sizes(lab: Lab) -> Finding:
    """Depth 1, 2 and 3, trained alike."""
    variants = {}
    for depth in (1, 2, 3):
        out = lab.out / f"prior_depth_{depth}"
        recipe = tiny(
            stages=("prior",),
            depth=depth,
            autoencoder_file=str(lab.model / FILES["autoencoder_file"]),
            diffusion=(Phase(4 * lab.steps, 16, 1e-3),),
            crop=64,
            pool_uses=4,
            ema=0.98,
            warmup=50,
            precision="no",
            export="fp32",
            out=str(out),
        )
        if not (out / "prior.safetensors").is_file():
            train(recipe)
        variants[str(depth)] = {"depth": depth, "prior_file": str(out / "prior.safetensors")}
    rows, values = table(lab, variants, MEASURES)
    column = "PSNR, medium"
    means = [fmean(v[column]) for v in values.values()]
    return Finding(
        "prior_sizes",
        "Size of the prior",
        "A larger prior restores better.",
        f"Networks of depth 1, 2 and 3 (width 64 times depth), each trained by flow matching for "
        f"{4 * lab.steps} steps and then adversarially.",
        ("depth", *MEASURES),
        rows,
        HOLDS if means == sorted(means) else FAILS,
        f"{', '.join(f'{m:.2f}' for m in means)} dB on medium degradation at depth 1, 2, 3",
        psnr_curves(lab, variants),
        ("step", "PSNR of held-out pictures, dB"),
    )
