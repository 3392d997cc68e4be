"""Curves of a run as a picture: one panel per stage and quantity, from the CSV that it wrote."""

from pathlib import Path

from .log import CSV_FILE, read_log

HIDDEN = ("lr", "unreadable")
COLUMNS = 3
SMOOTHING = 0.9
"""Of the bold line; the thin one is what was logged."""


def plot(source: Path, target: Path) -> None:
    """Draw log.csv of a run (its folder or the file) into a picture file.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if it is something else, or empty.
    """
    series = {k: v for k, v in _read(source).items() if k[1] not in HIDDEN}
    if not series:
        raise ValueError(f"{str(source)!r} holds no values yet")
    from matplotlib.figure import Figure

    rows = -(-len(series) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for panel, ((stage, name), values) in zip(panels, sorted(series.items()), strict=False):
        steps = sorted(values)
        raw = [values[s] for s in steps]
        if name.startswith("validation_"):  # always on the same pictures
            panel.plot(steps, raw, color="tab:blue", marker="o", markersize=3)
        else:
            panel.plot(steps, raw, color="tab:blue", alpha=0.3, linewidth=0.8)
            panel.plot(steps, _smooth(raw), color="tab:blue", linewidth=1.5)
        panel.set_title(f"{stage}: {name}", fontsize=10)
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    for panel in panels[len(series) :]:
        panel.set_axis_off()
    figure.savefig(target, dpi=100)


def _read(source: Path) -> dict[tuple[str, str], dict[int, float]]:
    """The log of a run, or those of the steps of a chain, with the steps' names for the stages'."""
    path = source / CSV_FILE if source.is_dir() else source
    if path.is_file():
        return read_log(path)
    steps = sorted(source.glob(f"*/{CSV_FILE}"), key=lambda p: p.stat().st_mtime)
    if not steps:
        raise FileNotFoundError(f"there is no log at {str(path)!r}; give the folder of a run")
    return {(p.parent.name, name): v for p in steps for (_, name), v in read_log(p).items()}


def _smooth(values: list[float]) -> list[float]:
    """Exponential mean, corrected for its start."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        result.append(mean / weight)
    return result
