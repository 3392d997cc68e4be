"""The log of a run: how often it is written, and the file.

The CSV has one row per logged value (stage, step, name, value), so that stages with other losses
share one file and a resumed run appends. Rows of steps that a resumed run repeats are written
again; readers take the last.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from .bounds import Bounds, Filled, settings

CSV_FILE = "log.csv"
COLUMNS = ("stage", "step", "name", "value")


@settings
class Log:
    """Log and validation."""

    log_every: Annotated[int, Bounds(1, 10**9, "steps")] = 10
    """Steps between log lines."""
    trackers: tuple[Annotated[str, Filled("a tracker")], ...] = ("tensorboard",)
    """Trackers besides log.csv, by accelerate's names: tensorboard, wandb, mlflow, comet_ml, aim,
    clearml, dvclive, swanlab, trackio."""
    probe_every: Annotated[int, Bounds(0, 10**9, "steps")] = 100
    """Steps between measurements of the gradient norm of each loss, 0 = never."""
    validate: str = ""
    """Folder of held-out images; empty: no validation."""
    validate_every: Annotated[int, Bounds(1, 10**9, "steps")] = 500
    """Steps between validations."""
    validate_count: Annotated[int, Bounds(1, 10**6, "pictures")] = 8
    """Number of images used from that folder."""


def append_log(path: Path, stage: str, step: int, values: Mapping[str, float]) -> None:
    """Write the values of a step."""
    fresh = not path.is_file()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        writer.writerows((stage, step, k, f"{v:.6g}") for k, v in values.items())


def read_log(path: Path) -> dict[tuple[str, str], dict[int, float]]:
    """(stage, name) -> step -> value, of a CSV that Watch wrote.

    Raises:
        ValueError: if the file is something else.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                f"{path.name} must have the columns {', '.join(COLUMNS)}; give the {CSV_FILE} of a "
                f"training run"
            )
        result: dict[tuple[str, str], dict[int, float]] = {}
        for row in reader:
            series = result.setdefault((row["stage"], row["name"]), {})
            series[int(row["step"])] = float(row["value"])
    return result
