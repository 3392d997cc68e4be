"""Signals that end a run: a step is finished, a checkpoint written, and a sentence says so.

What one process is asked (to stop, to write a checkpoint now) all must do at the same step. The
requests go along with the losses of a step, which are summed over the processes anyway
(update.settle), so agreement costs no exchange of its own.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 1.0
"""Seconds after which a second signal means "at once"; launchers pass a first one on twice."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and did."""

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code
        """Of the process's exit: 128 and the signal, as shells have it."""


class Requests:
    """What this process asks of all of them at the end of the step."""

    def __init__(self) -> None:
        self.stop = ""
        """Why to stop; empty: go on."""
        self.save = False
        """Whether a checkpoint is due."""
        self.code = 1
        self._when = 0.0
        self._waits = False

    def wishes(self) -> list[float]:
        """The two requests as numbers, for a sum over processes."""
        return [float(bool(self.stop)), float(self.save)]

    @contextmanager
    def at_the_end_of_a_step(self) -> Iterator[None]:
        """Within, a signal waits for the end of the step; elsewhere it ends the run at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextmanager
    def of_signals(self) -> Iterator[None]:
        """Within, SIGINT and SIGTERM are requests to stop."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may take signals
            return
        self.stop, self.save, self.code = "", False, 1
        kept = {s: signal.signal(s, self._take) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
            self.stop = ""

    def _take(self, number: int, frame) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if self.stop and now - self._when < AGAIN:
            return
        if not self._waits or self.stop:
            raise Stopped(
                f"stopped by {name}; the same command goes on from the last checkpoint",
                128 + number,
            )
        self.stop, self.code, self._when = name, 128 + number, now
        # Not by a logger: the signal may have come while it was writing.
        os.write(2, f"\n{name}: stopping after this step; once more stops at once\n".encode())


REQUESTS = Requests()
"""Of this process; signals are the process's too."""


def leave_signals_to_the_main_process(worker: int = 0) -> None:
    """For processes that read data: a signal to the whole group must not end them first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
