"""Run a program and end it as soon as whoever started this ends: `python guard.py PROGRAM ...`.

Standard input is a pipe that its owner never writes to. The system closes it when the owner ends,
even when it is killed, and no code of the owner could do that. Ray kills this guard too when its
owner is lost; on Linux the program then ends with the guard.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

PATIENCE_SECONDS = 10
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _end_with_the_guard() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Returns the program's own exit code."""
    bound = _end_with_the_guard if sys.platform == "linux" else None
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=bound)

    def end_with_the_owner() -> None:
        os.read(0, 1)  # sys.stdin would be locked while this program ends
        program.terminate()
        try:
            program.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()

    threading.Thread(target=end_with_the_owner, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main())
