"""The sections of docs/controls.md: each control varied in a Lab, as images and numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from hypir.priors import PRIORS, SD2
from hypir.texture_match import GAIN_BOUNDS
from tools.host.server import HostError
from tools.pages.contact_sheet import Row
from tools.pages.control_graphs import (
    DEGRADE_SEED,
    Lab,
    Result,
    Setting,
    distance,
    right_difference,
    spread,
)

INPUTS = ("photograph", "degraded, enlarged", "restored")
NOISES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # the range that training draws from
SEEDS = 4
RICHNESSES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LORAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
TIMESTEP_PARTS = (0.5, 0.75, 1.0, 1.25, 1.5)
REACHED_WITHIN = 0.02  # what HYPIR Match Texture promises
AT_A_BOUND = 0.002  # two searches that end at the same limit of the gain differ by less
MASK_KEEPS = 2e-6  # what HYPIR Restore promises of a latent where the mask is 0
EQUAL_WITHIN = 0.01  # of all priors' default signal-to-noise ratios
AMPLIFY = 8  # factor on differences, to make small ones visible


@dataclass
class Section:
    """A section of the page: description, sheet, table and verdict of one control."""

    title: str
    text: str
    sheet: str = ""
    rows: list[Row] = field(default_factory=list)
    head: tuple[str, ...] = ()
    table: list[tuple] = field(default_factory=list)
    verdict: str = ""
    side: int = 176
    """Side of each image on the sheet, which shows its middle."""


def inputs(lab: Lab) -> Section:
    degraded, richness = lab.degraded()
    (result,) = lab.run([Setting()])
    return Section(
        "Input",
        f"A photograph of {lab.width}x{lab.height} px, degraded and reduced {lab.scale}x by HYPIR "
        f"Degrade (medium, seed {DEGRADE_SEED}), then enlarged again with ComfyUI's Upscale Image "
        f"By ({lab.method}). HYPIR Measure Texture measures {richness:.3f} on the enlarged image "
        f"and {result.richness:.3f} on the restored one. All sheets show the middle of the image.",
        "inputs",
        [list(zip((lab.photo, degraded, result.pictures[0]), INPUTS, strict=True))],
    )


def noise(lab: Lab) -> Section:
    results = lab.run([Setting(noise=strength, variants=SEEDS) for strength in NOISES])
    table = [
        (
            f"{strength:.1f}",
            spread(result.given),
            spread(result.restored),
            spread(lab.network_output(result)),
            spread(torch.from_numpy(result.pictures)),
        )
        for strength, result in zip(NOISES, results, strict=True)
    ]
    columns = [list(column) for column in zip(*table, strict=True)][1:]
    same = all(rising(column) for column in columns)
    return Section(
        "Noise strength and seed",
        "HYPIR Inject Noise, strengths 0 to 0.5 (columns) with seeds 0 to 3 (rows, made by "
        "`variants` = 4). With more noise, more of the result is generated; each seed gives a "
        "different result. The table gives the standard deviation over the four seeds (root of "
        "the mean variance) of four things: the step's input latent, where it equals the strength "
        "by definition; its output latent; the network's output, computed from these two; and the "
        "image, in levels of 255.",
        "noise",
        [
            [
                (result.pictures[seed], f"noise {strength:.1f}, seed {seed}")
                for strength, result in zip(NOISES, results, strict=True)
            ]
            for seed in range(SEEDS)
        ],
        ("strength", "input latent", "restored latent", "network output", "image"),
        [(row[0], *(f"{value:.4f}" for value in row[1:4]), f"{row[4]:.2f}") for row in table],
        f"Strictly increasing in every column: {yes(same)}.",
        side=128,
    )


def token(lab: Lab) -> Section:
    title = "Texture richness, set with the token"
    text = "HYPIR Conditioning with texture = `set`: an extra token tells the network the texture "
    text += "richness to produce. "
    if lab.weights.texture is None:
        try:
            lab.run([Setting(richness=0.5)])
        except HostError as error:
            return Section(title, f"{text}With these weights the node reports: {error}", "token")
    off, *results = lab.run([Setting(), *(Setting(richness=value) for value in RICHNESSES)])
    measured = [result.richness for result in results]
    changes = [distance(result.restored, off.restored) for result in results]
    names = [f"richness {value:.1f}" for value in RICHNESSES]
    return Section(
        title,
        f"{text}Second row: the difference from texture = `off`, multiplied by {AMPLIFY}.",
        "token",
        against(off.pictures[0], "off", results, names),
        ("requested", "measured on the result", "change of the latent from off (RMS)"),
        [("off", f"{off.richness:.3f}", "0")]
        + [
            (f"{value:.1f}", f"{result.richness:.3f}", f"{change:.4f}")
            for value, result, change in zip(RICHNESSES, results, changes, strict=True)
        ],
        f"The token changes the latent: {yes(min(changes) > 0)}. The measured richness rises with "
        f"the requested one: {yes(rising(measured))}; this needs weights trained with the token.",
    )


def match(lab: Lab) -> Section:
    settings = [Setting(match=value) for value in RICHNESSES]
    settings += [Setting(match=value, match_photo=True) for value in RICHNESSES]
    results = lab.run(settings)
    pair = results[: len(RICHNESSES)], results[len(RICHNESSES) :]
    reached = [[result.richness for result in group] for group in pair]
    words = [judge_match(values) for values in reached]
    return Section(
        "Texture richness, matched on the image",
        f"HYPIR Match Texture scales the restored detail by a gain of {GAIN_BOUNDS[0]:g} to "
        f"{GAIN_BOUNDS[1]:g} until the image has the requested richness. What the enlarged input "
        "already shows stays unchanged. The node works with any weights. First row: the image "
        "restored here. Second row: the original photograph instead, the best that any weights "
        "could restore.",
        "match",
        [
            [
                (result.pictures[0], f"asked {value:.1f}, got {number(result.richness)}")
                for value, result in zip(RICHNESSES, group, strict=True)
            ]
            for group in pair
        ],
        ("requested", "restored: measured", "error", "photograph: measured", "error"),
        [
            (
                f"{asked:.1f}",
                *(number(v, f) for x in got for v, f in ((x, ".3f"), (x - asked, "+.3f"))),
            )
            for asked, *got in zip(RICHNESSES, *reached, strict=True)
        ],
        f"Restored: {words[0]}. Photograph: {words[1]}.",
    )


def judge_match(reached: Sequence[float]) -> str:
    """Whether it is monotone, and met wherever the limits of the gain allow."""
    met = [abs(a - b) <= REACHED_WITHIN for a, b in zip(reached, RICHNESSES, strict=True)]
    least, most = reached[0], reached[-1]
    bounded = [min(abs(a - least), abs(a - most)) <= AT_A_BOUND for a in reached]
    monotone = all(a <= b + 1e-6 for a, b in pairwise(reached))
    explained = all(a or b for a, b in zip(met, bounded, strict=True))
    return (
        f"never decreasing: {yes(monotone)}; within {REACHED_WITHIN} for {sum(met)} of {len(met)}, "
        f"all others at a limit of the gain: {yes(explained)}"
    )


def lora(lab: Lab) -> Section:
    results = lab.run([Setting(lora=strength) for strength in LORAS])
    first, *others = results
    changes = [distance(result.restored, first.restored) for result in results]
    return Section(
        "LoRA strength",
        "Load HYPIR LoRA. 0 is the base model alone, 1 the trained strength. Second row: the "
        f"difference from strength 0, multiplied by {AMPLIFY}.",
        "lora",
        against(
            first.pictures[0], "strength 0", others, [f"strength {value:g}" for value in LORAS[1:]]
        ),
        ("strength", "change of the latent from 0 (RMS)", "richness of the image"),
        [
            (f"{value:g}", f"{change:.4f}", f"{result.richness:.3f}")
            for value, change, result in zip(LORAS, changes, results, strict=True)
        ],
    )


def timestep(lab: Lab) -> Section:
    default = lab.weights.timestep
    steps = [round(default * part) for part in TIMESTEP_PARTS]
    results = lab.run([Setting(timestep=step) for step in steps])
    (middle,) = lab.run([Setting()])
    levels = [lab.prior.level(step) for step in steps]
    return Section(
        "Timestep",
        f"HYPIR Restore (advanced). The weights were trained at {default}. Lower values stay "
        "closer to the input, higher values invent more. Second row: the difference from the "
        f"default (-1), multiplied by {AMPLIFY}.",
        "timestep",
        against(
            middle.pictures[0], "-1 (default)", results, [f"timestep {step}" for step in steps]
        ),
        ("timestep", "signal", "noise", "change of the latent (RMS)", "richness of the image"),
        [
            (
                *(f"{step}", f"{level.alpha:.4f}", f"{level.sigma:.4f}"),
                *(f"{distance(result.restored, middle.restored):.4f}", f"{result.richness:.3f}"),
            )
            for step, level, result in zip(steps, levels, results, strict=True)
        ],
    )


def mask(lab: Lab) -> Section:
    strongest = Setting(noise=NOISES[-1], noise_left_half_only=True)
    half, whole, noisy = lab.run(
        [Setting(left_half_only=True), Setting(left_half_only=True, composite=True), strongest]
    )
    degraded, _ = lab.degraded()
    painted = np.zeros_like(degraded)
    painted[:, : lab.width // 2] = 255
    kept = right_difference(half.restored, half.given)
    untouched = right_difference(noisy.given, noisy.encoded)
    levels = [
        int(np.abs(shot.pictures[0].astype(int) - degraded)[:, lab.width // 2 :].max())
        for shot in (half, whole)
    ]
    return Section(
        "Mask",
        "Set Latent Noise Mask before HYPIR Restore: only the left half is restored. The latent "
        "of the right half stays the same, but decoding changes its pixels, so the graph ends with "
        "ComfyUI's ImageCompositeMasked. Last image: the mask of HYPIR Inject Noise instead.",
        "mask",
        [
            [
                (degraded, "enlarged input"),
                (painted, "mask"),
                (half.pictures[0], "restored in the mask"),
                (whole.pictures[0], "and composited"),
                (noisy.pictures[0], f"noise {NOISES[-1]} in the mask"),
            ]
        ],
        ("largest difference where the mask is 0", "found", "promised"),
        [
            ("latent: output of HYPIR Restore, from its input", f"{kept:.2g}", f"{MASK_KEEPS:g}"),
            ("latent: output of HYPIR Inject Noise, from its input", f"{untouched:g}", "0"),
            ("image: decoded, from the enlarged input, in levels of 255", f"{levels[0]}", "none"),
            ("image: composited, from the enlarged input, in levels of 255", f"{levels[1]}", "0"),
        ],
        f"All promises kept: {yes(kept <= MASK_KEEPS and untouched == 0 and levels[1] == 0)}.",
    )


def posterior(lab: Lab) -> Section:
    title = "Posterior"
    text = "HYPIR Encode (advanced): the mean of the encoder's posterior, or a sample by seed. "
    try:
        mean, *samples = lab.run([Setting(), *(Setting(posterior_seed=s) for s in range(SEEDS))])
    except HostError as error:
        return Section(
            title,
            f"{text}This autoencoder has no posterior; the node reports: {error}",
            "posterior",
        )
    names = [f"sample, seed {seed}" for seed in range(SEEDS)]
    encoded = torch.cat([sample.encoded for sample in samples])
    restored = torch.cat([sample.restored for sample in samples])
    return Section(
        title,
        f"{text}Second row: the difference from the mean, multiplied by {AMPLIFY}.",
        "posterior",
        against(mean.pictures[0], "mean", samples, names),
        ("standard deviation over the seeds", "found"),
        [
            ("latent encoded", f"{spread(encoded):.4f}"),
            ("latent restored", f"{spread(restored):.4f}"),
        ],
    )


def priors() -> Section:
    ours = SD2.level(SD2.timestep).snr
    ratios = [prior.level(prior.timestep).snr / ours for prior in PRIORS.values()]
    equal = all(abs(ratio - 1) <= EQUAL_WITHIN for ratio in ratios)
    return Section(
        "Default noise level of every base model",
        "Every base model treats the low-quality image as a latent with the signal-to-noise ratio "
        "of SD2's timestep 200. For flow models, timestep t means the noise level t/1000, and "
        "shift nodes do not change it. The input scale multiplies the latent before the network.",
        head=("prior", "base model", "timestep", "signal", "noise", "SNR", "SNR / SD2's", "scale"),
        table=[
            (
                *(f"`{name}`", prior.title, f"{prior.timestep}"),
                *(f"{level.alpha:.4f}", f"{level.sigma:.4f}", f"{level.snr:.4f}"),
                *(f"{ratio:.4f}", f"{prior.input_scale:.4f}"),
            )
            for (name, prior), ratio in zip(PRIORS.items(), ratios, strict=True)
            for level in [prior.level(prior.timestep)]
        ],
        verdict=f"Equal within {EQUAL_WITHIN:.0%}: {yes(equal)}.",
    )


Control = Callable[[Lab], Section]
CONTROLS: list[Control] = [inputs, noise, token, match, lora, timestep, mask, posterior]


def difference(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of two images, amplified around grey."""
    change = (picture.astype(np.int32) - other) * AMPLIFY + 128
    return change.clip(0, 255).astype(np.uint8)


def against(first: np.ndarray, name: str, others: Sequence[Result], names: list[str]) -> list[Row]:
    """The first picture and the others; under them, how they differ from it."""
    row = [(first, name)]
    row += [(other.pictures[0], title) for other, title in zip(others, names, strict=True)]
    grey = difference(first, first)
    return [
        row,
        [(grey, f"difference x {AMPLIFY}"), *((difference(p, first), t) for p, t in row[1:])],
    ]


def rising(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def number(value: float, form: str = ".3f") -> str:
    """Without the minus of a zero."""
    return f"{round(value, 3) + 0:{form}}"
