"""The paper's table for any folder of pictures: per picture, and as means with their intervals.

With a reference: PSNR, SSIM, LPIPS and texture error. Without: NIQE, MUSIQ, MANIQA and CLIPIQA by
pyiqa, where it is installed and its weights are at hand. Any other metric of pyiqa or torchmetrics
by its name. What is not measured is named and counted, never just left out.
"""

import csv
import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from .intervals import Mean, mean_interval
from .metric_names import Metric, NotMeasured, find_metric, usual_names
from .pictures import list_pictures, read_levels

log = logging.getLogger(__name__)

Row = tuple[str, dict[str, float]]
"""A picture's name and its finite values."""


def evaluate(
    results: Path,
    reference: Path | None = None,
    target: Path | None = None,
    lpips_backbone: str = "",
    names: Sequence[str] = (),
) -> tuple[dict[str, Mean], list[str]]:
    """Means over the pictures of a folder, and what could not be measured and why.

    Pictures are compared at the depth of their files. One that cannot be read, whose reference
    cannot, or whose reference has another size is left out and named among what could not be
    measured. A value that is not finite (the PSNR of two equal pictures) is left out of its mean
    and counted; so is one that a metric refuses to give (SSIM of a picture below its window).

    Args:
        results: folder of restored pictures, or a single one.
        reference: folder of clean ones with the same names (whatever the suffix); for a single
            picture its clean one.
        target: CSV to write, one row per picture, then the means, their intervals and counts.
        lpips_backbone: see perceptual.Lpips.
        names: metrics as in metric_names.py; empty for the usual ones.

    Raises:
        ValueError: if a picture has no reference or several, if a name is unknown, or if nothing
            can be measured.
    """
    files = list_pictures(results)
    if not files:
        raise ValueError(f"there is no picture in {str(results)!r}")
    partners = _partners(files, results, reference) if reference is not None else {}
    missing: list[str] = []
    asked = names or usual_names(reference is not None)
    metrics = _find(asked, reference is not None, lpips_backbone, missing)
    if not metrics:
        without = "" if reference is not None else " without a reference"
        raise ValueError(f"nothing can be measured{without} here: " + "; ".join(missing))
    rows: list[Row] = []
    bad: list[str] = []
    refused: dict[str, list[str]] = {metric.name: [] for metric in metrics}
    for file in files:
        try:
            image, clean = _read_pair(file, partners.get(file))
        except ValueError as error:
            bad.append(str(error))
            continue
        row = {}
        for metric in metrics:
            try:
                row[metric.name] = _value(metric, image, clean)
            except ValueError as error:
                refused[metric.name].append(str(error))
        rows.append((_name(file, results), row))
    if not rows:
        raise ValueError(f"none of {len(files)} pictures can be measured; {bad[0]}")
    if bad:
        missing += [f"{len(bad)} of {len(files)} pictures, which the means leave out:", *bad]
    for name, reasons in refused.items():
        missing += [
            f"{name}: {reasons.count(reason)} of {len(rows)} pictures, which its mean leaves out: "
            f"{reason}"
            for reason in dict.fromkeys(reasons)
        ]
    means = {m.name: mean for m in metrics if (mean := _mean(m.name, rows)) is not None}
    if target is not None:
        _write(target, rows, means)
    return means, missing


def _find(
    names: Iterable[str], with_reference: bool, lpips_backbone: str, missing: list[str]
) -> list[Metric]:
    """The metrics that can be had; why the others cannot is added to `missing`."""
    metrics = []
    for name in dict.fromkeys(names):
        try:
            metric = find_metric(name, lpips_backbone)
        except NotMeasured as reason:
            missing.append(f"{name.removeprefix('pyiqa:')}: {reason}")
            continue
        if metric.needs_reference and not with_reference:
            missing.append(f"{name}: it compares with a clean picture (--reference FOLDER)")
            continue
        metrics.append(metric)
    return metrics


def _read_pair(file: Path, partner: Path | None) -> tuple[Tensor, Tensor | None]:
    image = _read_image(file)
    if partner is None:
        return image, None
    clean = _read_image(partner)
    if clean.shape != image.shape:
        raise ValueError(
            f"{file.name} has {image.shape[2]}x{image.shape[1]} px, its reference "
            f"{clean.shape[2]}x{clean.shape[1]}; they must have one size"
        )
    return image, clean


def _value(metric: Metric, image: Tensor, clean: Tensor | None) -> float:
    """The finite value of a metric; otherwise ValueError with the reason."""
    try:
        with torch.inference_mode():
            value = metric.measure(image, clean if metric.needs_reference else None)
    except Exception as error:  # every metric has its own
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(text) from error
    if math.isfinite(value):
        return value
    if clean is not None and torch.equal(image, clean):
        raise ValueError(f"the picture equals its reference, so the value is {value}")
    raise ValueError(f"the value is {value}")


def _mean(name: str, rows: list[Row]) -> Mean | None:
    values = [row[name] for _, row in rows if name in row]
    return mean_interval(values) if values else None


def _read_image(file: Path) -> Tensor:
    return torch.from_numpy(read_levels(file))[None]


def _name(file: Path, folder: Path) -> str:
    return file.name if file == folder else file.relative_to(folder).as_posix()


def _partners(files: list[Path], results: Path, reference: Path) -> dict[Path, Path]:
    if results.is_file() and reference.is_file():
        return {results: reference}
    if not reference.is_dir():
        raise FileNotFoundError(f"there is no folder {str(reference)!r} of references")
    known: dict[str, list[Path]] = {}
    for file in list_pictures(reference):
        known.setdefault(_stem(file, reference), []).append(file)
    lone = [f for f in files if _stem(f, results) not in known]
    if lone:
        raise ValueError(
            f"{len(lone)} of {len(files)} pictures have no reference of their name in "
            f"{str(reference)!r}, first {lone[0].name!r}"
        )
    partners = {}
    for file in files:
        candidates = known[_stem(file, results)]
        same = [c for c in candidates if c.suffix.lower() == file.suffix.lower()]
        if len(candidates) > 1 and len(same) != 1:
            raise ValueError(
                f"{file.name} must have one reference of its name, found "
                f"{', '.join(c.name for c in candidates)}"
            )
        partners[file] = same[0] if same else candidates[0]
    return partners


def _stem(file: Path, folder: Path) -> str:
    return Path(_name(file, folder)).with_suffix("").as_posix()


def _write(target: Path, rows: list[Row], means: dict[str, Mean]) -> None:
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", *means])
        for name, row in rows:
            writer.writerow([name, *(f"{row[k]:.6g}" if k in row else "" for k in means)])
        writer.writerow(["mean", *(f"{m.mean:.6g}" for m in means.values())])
        for end in ("low", "high"):
            ends = [getattr(m, end) for m in means.values()]
            writer.writerow(
                [f"interval {end}", *("" if math.isnan(v) else f"{v:.6g}" for v in ends)]
            )
        writer.writerow(["pictures", *(m.count for m in means.values())])
