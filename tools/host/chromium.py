"""Chromium for the tests of the page; `python -m tools.host.chromium` installs it if absent.

It comes from the system's packages, so that playwright does not download its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "google-chrome", "chromium-browser")
# the last one, because Debian's chromium alone shows no Chinese characters
PACKAGES = ("chromium", "fonts-noto-cjk")
ABSENT = (
    "the browser tests need Chromium, which is not installed; install the package chromium (Debian "
    "and Ubuntu: apt-get install chromium) and run them again"
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
    """Install Debian's package, as root or with a sudo that needs no password.

    Raises:
        OSError: if that is not possible here.
    """
    if not shutil.which("apt-get"):  # systems with apt-get have user ids
        raise OSError(ABSENT)
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and not shutil.which("sudo"):
        raise OSError(ABSENT)
    environment = [*root, "env", "DEBIAN_FRONTEND=noninteractive"]
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        quiet = [*environment, "apt-get", "-q", *command]
        if subprocess.run(quiet, check=False, stdout=subprocess.DEVNULL).returncode:
            raise OSError(f"`{' '.join(quiet)}` failed (see its message above); {ABSENT}")


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
