"""Run a program and end it as soon as whoever started this ends: `python guard.py PROGRAM ...`.

Standard input is a pipe that its owner never writes to. The system closes it when the owner ends,
even when it is killed, and no code of the owner could do that.
"""

from __future__ import annotations

import subprocess
import sys
import threading

PATIENCE_SECONDS = 10


def main() -> int:
    """Returns the program's own exit code."""
    program = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def end_with_the_owner() -> None:
        sys.stdin.buffer.read()
        program.terminate()
        try:
            program.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()

    threading.Thread(target=end_with_the_owner, daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main())
