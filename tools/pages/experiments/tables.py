"""Tables and curves of experiments that train."""

import math
from collections.abc import Callable
from statistics import fmean

from .finding import Panel
from .trials import Lab, mean_and_deviation

Values = dict[str, dict[str, list[float]]]
"""Variant -> column -> one value per seed; NaN where the run diverged."""


def table(
    lab: Lab, variants: dict[str, dict], columns: dict[str, Callable[[dict], float]]
) -> tuple[list[tuple[str, ...]], Values]:
    """Rows of mean and deviation over seeds, and the values."""
    values: Values = {}
    for name, changes in variants.items():
        trials = [lab.trial(seed, **changes) for seed in lab.seeds]
        values[name] = {column: [read(t) for t in trials] for column, read in columns.items()}
    rows = [(name, *map(mean_and_deviation, found.values())) for name, found in values.items()]
    return rows, values


def of(name: str) -> Callable[[dict], float]:
    """A measure by its name."""
    return lambda result: result.get(name, math.nan)


MEASURES = {
    "PSNR, light": of("psnr_light"),
    "PSNR, medium": of("psnr_medium"),
    "PSNR, heavy": of("psnr_heavy"),
    "detail": of("detail"),
    "correlation": of("correlation"),
}


def mean_psnr(found: dict[str, list[float]]) -> list[float]:
    """Over the degradations, one value per seed."""
    return [fmean(p) for p in zip(*(v for k, v in found.items() if "PSNR" in k), strict=True)]


def psnr_panel(lab: Lab, variants: dict[str, dict]) -> Panel:
    """Mean over seeds of the PSNR by step."""
    curves = {}
    for name, changes in variants.items():
        runs = [lab.trial(seed, **changes)["curves"] for seed in lab.seeds]
        psnrs = [fmean(p) for p in zip(*(r["psnr"] for r in runs), strict=False)]
        curves[name] = (runs[0]["psnr_step"][: len(psnrs)], psnrs)
    return Panel("step", "PSNR of held-out pictures (medium), dB", curves)


def mean_curve(curves: list[list[float]]) -> tuple[list[float], list[float]]:
    """(steps, mean over seeds)."""
    means = [fmean(v) for v in zip(*curves, strict=False)]
    return list(range(1, len(means) + 1)), means
