"""The commands of this project. `nox -l` lists them; README.md and CONTRIBUTING.md explain them.

All of them use one environment, .nox/env, created by the session `env`. It contains the pinned
requirements of the host and of the tests: about 6 GB, because the host imports torchvision and
torchaudio, which need the standard build of torch.
"""

import hashlib
import os
import platform
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # the first version with `requires`
nox.options.sessions = ["lint", "unit"]

ROOT = Path(__file__).resolve().parent
ENV = ROOT / ".nox" / "env"
STAMP = ENV / "installed.txt"
CONSTRAINTS = ROOT / "constraints.txt"
PYTHON = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def dev_requirements() -> list[str]:
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    return project["optional-dependencies"]["dev"]


def fingerprint() -> str:
    """A hash of everything that determines what is installed."""
    parts = [CONSTRAINTS.read_text(), *dev_requirements(), platform.machine(), sys.version]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@nox.session(reuse_venv=True)
def env(session: nox.Session) -> None:
    """Create the environment, unless it is up to date."""
    if STAMP.is_file() and STAMP.read_text() == fingerprint():
        return
    STAMP.unlink(missing_ok=True)
    # the list of the pinned host, even if COMFYUI_PATH is set
    get_host = ["python", "-m", "tools.host.get_host"]
    host = session.run(*get_host, env={"COMFYUI_PATH": ""}, silent=True)
    requirements = Path(host.splitlines()[-1]) / "requirements.txt"
    try:
        session.install("-c", str(CONSTRAINTS), "-r", str(requirements), *dev_requirements())
    except nox.command.CommandFailed:
        session.error(
            "the pinned packages could not be installed; they exist for Linux, Windows and Apple "
            f"silicon with Python 3.11 to 3.13, but this is {platform.platform()}, Python "
            f"{platform.python_version()}"
        )
    STAMP.write_text(fingerprint())


def python(session: nox.Session, *arguments: str) -> None:
    session.run(str(PYTHON), *arguments, external=True)


def command(function):
    return nox.session(function, venv_backend="none", requires=["env"])


@command
def restore(session: nox.Session) -> None:
    """Restore a photo: nox -s restore -- photo.jpg restored.png [--help]."""
    session.chdir(session.invoked_from)
    python(session, str(ROOT / "tools" / "commands" / "restore.py"), *session.posargs)


@command
def ui(session: nox.Session) -> None:
    """Open ComfyUI's page with this pack and its small model."""
    python(session, "-m", "tools.commands.ui")


@command
def tests(session: nox.Session) -> None:
    """Run all tests; a layer that cannot run fails."""
    if not session.posargs or "browser" in " ".join(session.posargs):
        python(session, "-m", "tools.host.chromium")
    python(session, "-m", "pytest", *session.posargs)


@command
def unit(session: nox.Session) -> None:
    """Run the fast tests, which need no host."""
    python(session, "-m", "pytest", "-m", "not host and not http and not browser", *session.posargs)


@command
def lint(session: nox.Session) -> None:
    """Check style and format."""
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")


@command
def bench(session: nox.Session) -> None:
    """Measure computation, time and memory, compared with the limit and the reference plan."""
    python(session, "-m", "tools.pages.performance", *session.posargs)


@command
def two_hosts(session: nox.Session) -> None:
    """Train on two hosts (network namespaces), kill one, go on: same bits. Linux and root only."""
    python(session, "-m", "tools.commands.two_hosts")


@command
def controls(session: nox.Session) -> None:
    """Rewrite docs/controls.md and its pictures: nox -s controls [-- --checkpoint F --lora F]."""
    session.chdir(session.invoked_from)
    python(session, str(ROOT / "tools" / "pages" / "controls.py"), *session.posargs)


@command
def experiments(session: nox.Session) -> None:
    """Test the paper's claims on the small model and rewrite docs/experiments.md."""
    python(session, "-m", "tools.pages.experiments", *session.posargs)


@command
def campaign(session: nox.Session) -> None:
    """Try the pack hard, write docs/reliability.md: nox -s campaign [-- files kills --long]."""
    python(session, "-m", "tests.campaign", *session.posargs)


@command
def update(session: nox.Session) -> None:
    """Rewrite the recorded snapshots with the current results."""
    python(session, "-m", "pytest", "-k", "snapshot", "--update", *session.posargs)
