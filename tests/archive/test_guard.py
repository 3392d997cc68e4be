"""A host never outlives the archive that started it."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from hypir.archive.start import GUARD

WAITS = "import sys, threading; print('ready', flush=True); threading.Event().wait()"
PATIENCE = 60.0


def closed(guard: subprocess.Popen[str]) -> None:
    """As the system does when the owner ends."""
    guard.stdin.close()


def killed(guard: subprocess.Popen[str]) -> None:
    """As Ray does with the children of a process that is lost."""
    guard.kill()


@pytest.mark.parametrize("how", [closed, killed])
def test_the_program_ends_with_its_owner(how):
    command = [sys.executable, str(GUARD), sys.executable, "-c", WAITS]
    guard = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert guard.stdout.readline() == "ready\n"
    (program,) = psutil.Process(guard.pid).children()
    how(guard)
    gone, _ = psutil.wait_procs([program], PATIENCE)
    assert gone
    guard.wait(PATIENCE)


def test_the_exit_code_is_the_programs_own():
    command = [sys.executable, str(GUARD), sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as guard:
        assert guard.wait(PATIENCE) == 7
