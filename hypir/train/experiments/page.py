"""`python -m hypir experiments`: run them, write the page and its plots."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from . import sweeps, training
from .finding import Finding
from .trials import LORA, Lab

log = logging.getLogger(__name__)

EXPERIMENTS: dict[str, Callable[[Lab], Finding]] = {
    f.__name__: f
    for f in (
        training.initialisation,
        training.pre_removal,
        training.discriminators,
        training.ranks,
        training.losses,
        sweeps.noise,
        sweeps.richness,
        sweeps.timesteps,
        training.timesteps_trained,
        training.contents,
        training.prior_sizes,
        sweeps.steps,
    )
}
OPENING = """\
# Experiments

What the paper claims of HYPIR, tested at the size of the small model
([its card](../models/README.md)): a network of 3.8 M parameters, made-up pictures (dead leaves),
{seeds} seeds, and for experiments that train {steps} steps of 8 crops of 64 px each. That is a few
hundred times fewer parameters and some ten thousand times fewer pictures than the paper's; a
verdict is one about this size. Values are mean +- standard deviation over seeds, on {count}
held-out pictures per degradation; PSNR without colour transfer.

| experiment | verdict | because |
|---|---|---|
{summary}
"""


def run_experiments(lab: Lab, page: Path, only: Sequence[str] = ()) -> list[Finding]:
    """Run the named experiments, or all, and write the page with pictures in a folder beside it.

    Raises:
        ValueError: if a name is unknown, or the model's files are not there.
    """
    unknown = [name for name in only if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(
            f"there is no experiment {unknown[0]!r}; choose of {', '.join(EXPERIMENTS)}"
        )
    if not (lab.model / LORA).is_file():
        raise ValueError(
            f"--model must be a folder with the small model, got {str(lab.model)!r}, which lacks "
            f"{LORA}"
        )
    lab.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, experiment in EXPERIMENTS.items():
        if not only or name in only:
            found.append(experiment(lab))
            log.info("%s: %s, %s", found[-1].title, found[-1].verdict, found[-1].because)
    write_page(lab, page, found)
    return found


def write_page(lab: Lab, page: Path, found: Sequence[Finding]) -> None:
    """The page and its plots."""
    from .trials import COUNT

    pictures = page.parent / page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    summary = "\n".join(f"| {f.title} | **{f.verdict}** | {f.because} |" for f in found)
    opening = OPENING.format(seeds=len(lab.seeds), steps=lab.steps, count=COUNT, summary=summary)
    parts = [opening]
    for finding in found:
        if finding.curves:
            draw(finding, pictures / f"{finding.name}.png")
        parts.append(section(finding, page.stem))
    parts.append("Written by `python -m hypir experiments`; do not edit by hand.")
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def section(finding: Finding, folder: str) -> str:
    """One experiment as Markdown."""
    rule = ["---"] + ["--:"] * (len(finding.head) - 1)
    lines = [finding.head, rule, *finding.rows]
    parts = [
        f"## {finding.title}",
        f"*{finding.claim}*",
        finding.method,
        "\n".join(f"| {' | '.join(line)} |" for line in lines),
    ]
    if finding.curves:
        parts.append(f"![{finding.title}]({folder}/{finding.name}.png)")
    parts.append(f"**{finding.verdict[0].upper()}{finding.verdict[1:]}**: {finding.because}.")
    return "\n\n".join(parts)


def draw(finding: Finding, file: Path) -> None:
    """Its curves as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, (x, y) in finding.curves.items():
        axes.plot(x, y, marker="o", markersize=3, label=label)
    axes.set_xlabel(finding.axes[0])
    axes.set_ylabel(finding.axes[1])
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=90)
