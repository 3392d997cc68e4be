"""Where values go besides log.csv: the trackers that accelerate knows, by one option."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PROJECT = "hypir"
"""Name of the project in trackers that have projects."""


def check_trackers(names: Sequence[str]) -> None:
    """Whether all trackers can be used, before a run begins.

    Raises:
        ValueError: with the names that accelerate knows, or with what to install.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ValueError(f"trackers must be some of {known}, got {name!r}")
        if name not in [str(kind) for kind in get_available_trackers()]:
            raise ValueError(
                f"the tracker {name!r} is not installed; pip install {name}, or leave it out of "
                f"--trackers"
            )


class Trackers:
    """The trackers of a run; of the main process only."""

    def __init__(self, names: Sequence[str], out: Path, recipe: Mapping[str, Any]):
        """`recipe`: plain values, which the trackers keep with the run."""
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        check_trackers(names)
        self._trackers = []
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            # tensorboard has no projects, and its folder is where it has always been
            project = name if name == "tensorboard" else PROJECT
            given = (str(out),) if kind.requires_logging_directory else ()
            tracker = kind(project, *given)
            if hasattr(tracker, "start"):
                tracker.start()
            if name != "tensorboard":  # it would make a run of its own for them
                tracker.store_init_configuration(dict(recipe))
            self._trackers.append(tracker)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Values at a step."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def show(self, name: str, picture: np.ndarray, step: int) -> None:
        """A picture (H, W, 3) uint8, where a tracker shows pictures."""
        for tracker in self._trackers:
            if hasattr(tracker, "log_images"):
                more = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: picture[None]}, step=step, **more)

    def close(self) -> None:
        """Finish all of them."""
        for tracker in self._trackers:
            tracker.finish()
