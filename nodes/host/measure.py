"""Seconds and peak memory of a stage, for its line in the log."""

from __future__ import annotations

import sys
import time

import torch

GIB = 2**30


class Measure:
    """From its creation until it is written out: "3.2 s, peak 4.10 GiB on cuda:0"."""

    def __init__(self, device: torch.device):
        self._device = device
        self._counter = _counter_of(device)
        if self._counter is not None:
            self._counter.reset_peak_memory_stats(device)
        self._start = time.perf_counter()

    def __str__(self) -> str:
        if self._counter is not None:
            # The work on a GPU is queued; without waiting, the time would be that of queueing.
            self._counter.synchronize(self._device)
            peak = f", peak {self._counter.max_memory_allocated(self._device) / GIB:.2f} GiB on "
            peak += str(self._device)
        else:
            peak = _of_process()
        return f"{time.perf_counter() - self._start:.1f} s{peak}"


def _counter_of(device: torch.device):
    """torch.cuda (NVIDIA and AMD) or torch.xpu; None for devices that keep no peak."""
    module = getattr(torch, device.type, None)
    return module if hasattr(module, "max_memory_allocated") else None


def _of_process() -> str:
    """The highest main memory of this process so far; empty on Windows, which does not say."""
    try:
        import resource
    except ImportError:
        return ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return f", peak {peak * unit / GIB:.2f} GiB of the process so far"
