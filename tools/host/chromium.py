"""Chromium for the tests of the page; `python -m tools.host.chromium` installs it if absent.

Taken from the system's packages, so that playwright has nothing of its own to download.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "google-chrome", "chromium-browser")
# the last one, as Debian's chromium alone shows no Chinese letters
PACKAGES = ("chromium", "fonts-noto-cjk")
ABSENT = (
    "the tests of the page need Chromium, which is not on this machine; install the package "
    "chromium (Debian and Ubuntu: apt-get install chromium) and run them again"
)


def find_chromium() -> str:
    """The program's path.

    Raises:
        OSError: if there is none.
    """
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    raise OSError(ABSENT)


def install() -> None:
    """Install Debian's package, as root or through a sudo that asks nothing.

    Raises:
        OSError: if that is not possible here.
    """
    if not shutil.which("apt-get"):  # where it is, there are user ids as well
        raise OSError(ABSENT)
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and not shutil.which("sudo"):
        raise OSError(ABSENT)
    environment = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        quiet = [*environment, "apt-get", "-q", *command]
        if subprocess.run(quiet, check=False, stdout=subprocess.DEVNULL).returncode:
            raise OSError(f"`{' '.join(quiet)}` failed, see its message above; {ABSENT}")


def main() -> None:
    try:
        try:
            find_chromium()
        except OSError:
            install()
        sys.stdout.write(f"{find_chromium()}\n")
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
