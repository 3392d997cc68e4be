"""`nox -s experiments`: run them, write the page and its plots."""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.pages.markdown import table

from . import starts, sweeps, training
from .finding import NEAR, Finding, Panel
from .trials import LORA, Lab

log = logging.getLogger(__name__)

EXPERIMENTS: dict[str, Callable[[Lab], Finding]] = {
    f.__name__: f
    for f in (
        starts.initialisation,
        starts.pre_removal,
        training.discriminators,
        training.ranks,
        training.losses,
        sweeps.noise,
        sweeps.richness,
        sweeps.timesteps,
        training.timesteps_trained,
        training.contents,
        starts.prior_sizes,
        sweeps.steps,
    )
}
OPENING = """\
# Experiments

The paper's claims about HYPIR, tested at the size of the small model
([its card](../models/README.md)): a network of 3.8 M parameters, synthetic images (dead leaves),
{seeds} seeds and, for experiments that train, {steps} steps of 8 crops of 64 px. This is hundreds
to thousands of times fewer parameters and about ten thousand times fewer images than in the paper,
so each verdict holds for this size only. Values are mean +- standard deviation over seeds, on
{count} held-out images per degradation, each restored at the richness of its own target; PSNR
without colour transfer. For experiments that train, each seed is a separate training run; for the
others, a separate set of images. The weights are {weights}; a section that was made with earlier
weights of the same size says so. A difference below {near} dB, or below half the spread over seeds,
counts as "undecided".

| experiment | verdict | reason |
|---|---|---|
{summary}
"""


EARLIER = "Made with earlier weights ({})."


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
    beside(page).mkdir(parents=True, exist_ok=True)
    found = []
    for name, experiment in EXPERIMENTS.items():
        kept = beside(page) / f"{name}.json"
        if not only or name in only:
            finding = dataclasses.replace(experiment(lab), weights=lab.weights())
            log.info("%s: %s, %s", finding.title, finding.verdict, finding.because)
            keep_finding(finding, kept)
        if kept.is_file():
            found.append(load_finding(kept))
    write_page(lab, page, found)
    return found


def beside(page: Path) -> Path:
    """The folder of the page's plots and of the findings it is generated from."""
    return page.parent / page.stem


def keep_finding(finding: Finding, file: Path) -> None:
    """Save as JSON, with six digits for plots, more than is visible."""

    def plain(value):
        if isinstance(value, float):
            return float(f"{value:.6g}")
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    text = json.dumps(plain(dataclasses.asdict(finding)), separators=(",", ":"))
    file.write_text(text + "\n", encoding="utf-8")


def load_finding(file: Path) -> Finding:
    """Load a saved finding, so that the page contains all experiments ever run."""
    fields = json.loads(file.read_text("utf-8"))
    panels = tuple(Panel(**panel) for panel in fields["panels"])
    return Finding(**{**fields, "panels": panels})


def write_page(lab: Lab, page: Path, found: Sequence[Finding]) -> None:
    """The page and its plots."""
    from .trials import COUNT

    pictures = beside(page)
    pictures.mkdir(parents=True, exist_ok=True)
    summary = "\n".join(f"| {f.title} | **{f.verdict}** | {f.because} |" for f in found)
    sizes = {"seeds": len(lab.seeds), "steps": lab.steps, "count": COUNT, "near": NEAR}
    weights = lab.weights()
    parts = [OPENING.format(**sizes, weights=weights, summary=summary).strip()]
    for finding in found:
        draw(finding, pictures / f"{finding.name}.png")
        parts.append(section(finding, page.stem, weights))
    parts.append("Written by `nox -s experiments`; do not edit by hand.")
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def section(finding: Finding, folder: str, weights: str) -> str:
    """One experiment as Markdown, with a note if it used other weights than `weights`."""
    parts = [
        f"## {finding.title}",
        f"*{finding.claim}*",
        finding.method
        if finding.weights == weights
        else f"{finding.method} {EARLIER.format(finding.weights)}",
        table(finding.head, finding.rows),
    ]
    parts.append(f"![{finding.title}]({folder}/{finding.name}.png)")
    parts.append(f"**{finding.verdict[0].upper()}{finding.verdict[1:]}**: {finding.because}.")
    return "\n\n".join(parts)


def draw(finding: Finding, file: Path) -> None:
    """Its plots side by side."""
    from matplotlib.figure import Figure

    count = len(finding.panels)
    figure = Figure(figsize=(5.5 * count, 3.6), layout="constrained")
    for axes, panel in zip(
        figure.subplots(1, count, squeeze=False)[0], finding.panels, strict=True
    ):
        for label, (x, y) in panel.curves.items():
            axes.plot(x, y, marker="o", markersize=3, label=label)
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(file, dpi=80)
