"""The paper's table for any folder of pictures, per picture and as means.

With a reference: PSNR, SSIM, LPIPS and texture error. Without: NIQE, MUSIQ, MANIQA and CLIPIQA by
pyiqa, where it is installed and its weights are at hand; what is not is named, never just left out.
"""

import csv
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .perceptual import Lpips, lpips_is_at_hand
from .pictures import list_pictures, read_levels
from .validation import compare

log = logging.getLogger(__name__)

NO_REFERENCE = ("niqe", "musiq", "maniqa", "clipiqa")
"""pyiqa's names."""
Metric = Callable[[Tensor], float]


def evaluate(
    results: Path,
    reference: Path | None = None,
    target: Path | None = None,
    lpips_backbone: str = "",
) -> tuple[dict[str, float], list[str]]:
    """Means over the pictures of a folder, and what could not be measured and why.

    Pictures are compared at the depth of their files. One that cannot be read, or whose reference
    cannot, is left out and named among what could not be measured.

    Args:
        results: folder of restored pictures, or a single one.
        reference: folder of clean ones with the same names (whatever the suffix) and sizes; for a
            single picture its clean one.
        target: CSV to write, one row per picture and one of means.
        lpips_backbone: see losses.Lpips.

    Raises:
        ValueError: if a picture has no reference, several, or one of another size, or if none can
            be read.
    """
    files = list_pictures(results)
    if not files:
        raise ValueError(f"there is no picture in {str(results)!r}")
    partners = _partners(files, results, reference) if reference is not None else {}
    missing: list[str] = []
    lpips = None
    if reference is not None:
        if lpips_is_at_hand(lpips_backbone):
            lpips = Lpips(lpips_backbone)
        else:
            missing.append("lpips: the VGG16 of torchvision is not at hand (--lpips-backbone FILE)")
    metrics = _no_reference(missing)
    rows, bad = [], []
    for file in files:
        try:
            image = _read_image(file)
            clean = _read_image(partners[file]) if reference is not None else None
        except ValueError as error:
            bad.append(str(error))
            continue
        row: dict[str, float] = {}
        if clean is not None:
            if clean.shape != image.shape:
                raise ValueError(
                    f"{file.name} has {image.shape[2]}x{image.shape[1]} px, its reference "
                    f"{clean.shape[2]}x{clean.shape[1]}; they must have one size"
                )
            row |= compare(image, clean, lpips)
        row |= {name: metric(image.movedim(-1, 1)) for name, metric in metrics.items()}
        rows.append((_name(file, results), row))
    if not rows:
        raise ValueError(f"none of {len(files)} pictures can be measured; {bad[0]}")
    if bad:
        missing += [f"{len(bad)} of {len(files)} pictures, which the means leave out:", *bad]
    if not rows[0][1]:
        raise ValueError("nothing can be measured without a reference here: " + "; ".join(missing))
    means = {k: sum(row[k] for _, row in rows) / len(rows) for k in rows[0][1]}
    if target is not None:
        _write(target, rows, means)
    return means, missing


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


def _no_reference(missing: list[str]) -> dict[str, Metric]:
    """Pyiqa's metrics that can be had; the others are added to `missing`."""
    try:
        import pyiqa
    except ImportError:
        missing += [f"{name}: pyiqa is not installed (pip install pyiqa)" for name in NO_REFERENCE]
        return {}
    metrics: dict[str, Metric] = {}
    for name in NO_REFERENCE:
        try:
            measure = pyiqa.create_metric(name)
        except Exception as error:  # every hub and metric has its own
            missing.append(f"{name}: its weights cannot be loaded ({error})")
            continue
        metrics[name] = lambda x, measure=measure: float(measure(x))
    return metrics


def _write(target: Path, rows: list[tuple[str, dict[str, float]]], means: dict) -> None:
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", *means])
        for name, row in [*rows, ("mean", means)]:
            writer.writerow([name, *(f"{row[k]:.6g}" for k in means)])
