"""Shared by the commands in tools/: a wrong argument or a failure ends with one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from tools.host.server import HostError


class Parser(argparse.ArgumentParser):
    """argparse with one sentence instead of a usage text."""

    def error(self, message: str) -> NoReturn:
        sys.exit(f"{message}; `{self.prog} --help` lists what can be given")


def run(command: Callable[[], None], stopped: str = "stopped") -> None:
    """Run a command; `stopped` is what Ctrl-C ends it with."""
    try:
        command()
    except (ValueError, HostError, OSError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(stopped)
