"""The state of a run on one line of a terminal; in a file, a line a minute."""

from __future__ import annotations

import sys
import time
from typing import Any

LINE_SECONDS = 60.0
RECENT_SECONDS = 300.0


class Progress:
    """Photos done, per second, time left, hosts at work and failures so far."""

    def __init__(self, total: int, hosts: int) -> None:
        self.total, self.hosts = total, hosts
        self.done = self.failed = 0
        self.began = self.said = time.monotonic()
        self.first: float | None = None
        self.seen: dict[str, float] = {}
        self.live = sys.stdout.isatty()

    def add(self, row: dict[str, Any]) -> None:
        """Count a photo."""
        now = time.monotonic()
        self.done += 1
        self.failed += bool(row["error"])
        self.first = now if self.first is None else self.first
        self.seen[row["host"]] = now
        if self.live or now - self.said >= LINE_SECONDS or self.done == self.total:
            self.said = now
            self._write(f"\r\x1b[K{self.text(now)}" if self.live else f"{self.text(now)}\n")

    def text(self, now: float) -> str:
        """The line."""
        assert self.first is not None
        # the start of the hosts says nothing about the time that is left
        rate = (self.done - 1) / (now - self.first) if self.done > 1 and now > self.first else 0.0
        left = f"{_clock((self.total - self.done) / rate)} left" if rate else "time left unknown"
        # one that was lost and started again counts twice for a while
        alive = min(self.hosts, sum(now - then < RECENT_SECONDS for then in self.seen.values()))
        return (
            f"{self.done}/{self.total} photos, {rate:.2f} per second, {left}, "
            f"{alive} of {self.hosts} hosts at work, {self.failed} failed"
        )

    def close(self) -> None:
        """End the line."""
        self._write("\n" if self.live and self.done else "")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
