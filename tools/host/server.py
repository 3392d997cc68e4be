"""A ComfyUI with this pack that runs for the duration of a `with` block, and its HTTP API.

    with running(get_host(), models={"checkpoints": [file]}) as server:
        server.run(prompt)

The host gets its own base folder, temporary unless one is given. The models are linked into it, so
the user's files are not copied, listed or written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

import requests
import websocket

from tools import ROOT
from tools.host.get_frontend import get_frontend

PACK = "hypir"  # folder of the pack under custom_nodes
START_SECONDS = 240
STOP_SECONDS = 20
REQUEST_SECONDS = 60
SILENCE_SECONDS = 1800  # one step of a large image on a CPU can take minutes
TAIL_LINES = 40
NOT_THE_PACK = (".git", ".nox", "tests", "tools", "__pycache__")

Prompt = dict[str, dict[str, Any]]


class HostError(RuntimeError):
    """The host refused or failed; the message is the node's own."""


class Interrupted(HostError):
    """The host stopped a prompt on request."""


def wait_until(holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Check ten times a second until a condition holds.

    Raises:
        HostError: with `otherwise` if it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise HostError(f"{otherwise} after {seconds:.0f} s")
        time.sleep(0.1)


class Progress:
    """A progress message of the running prompt."""

    def __init__(self, node: str, done: int, total: int) -> None:
        self.node, self.done, self.total = node, done, total


class Watch:
    """The websocket of one prompt: opened before it is queued, so that no message is missed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = uuid.uuid4().hex
        address = f"ws://{server.address}/ws?clientId={self.client}"
        self.socket = websocket.create_connection(address, timeout=REQUEST_SECONDS)
        self.prompt_id: str | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def queue(self, prompt: Prompt) -> str:
        self.prompt_id = self.server.queue(prompt, self.client)
        return self.prompt_id

    def messages(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Type and data of every message about this prompt, up to its end."""
        self.socket.settimeout(SILENCE_SECONDS)
        while True:
            try:
                text = self.socket.recv()
            except (websocket.WebSocketException, OSError) as error:
                raise self.server.failure("the host stopped answering") from error
            if not isinstance(text, str) or not text:
                continue  # a preview image
            message = json.loads(text)
            kind, data = message["type"], message["data"]
            if data.get("prompt_id") != self.prompt_id:
                continue
            yield kind, data
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                return

    def progress(self) -> Iterator[Progress]:
        """Each step of each node until the prompt is done.

        Raises:
            HostError: with the node's message if one fails, or its subclass Interrupted.
        """
        for kind, data in self.messages():
            if kind == "executing" and data["node"] is not None:
                yield Progress(data["node"], 0, 0)
            elif kind == "progress":
                yield Progress(data["node"], int(data["value"]), int(data["max"]))
            elif kind == "execution_interrupted":
                raise Interrupted(f"interrupted in {data['node_type']}")
            elif kind == "execution_error":
                name = data["node_type"]
                raise HostError(f"{name}: {data['exception_message'].strip()}")


class Server:
    """One running host."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, base: Path, log: Path) -> None:
        self.process, self.base, self.log = process, base, log
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy for requests to this machine

    # ---------------------------------------------------------------- state

    def wait_until_ready(self, seconds: float = START_SECONDS) -> None:
        try:
            wait_until(self.answers, seconds, "the host did not start")
        except HostError as error:
            raise self.failure(str(error)) from None

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise HostError("the host exited while starting")
        try:
            return self.session.get(f"{self.url}/system_stats", timeout=5).ok
        except requests.RequestException:
            return False

    def failure(self, what: str) -> HostError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return HostError(f"{what}; the end of its log:\n{tail}")

    def stop(self) -> None:
        self.session.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # ----------------------------------------------------------------- HTTP

    def get(self, path: str, **query: str) -> Any:
        return self._answer("GET", path, params=query).json()

    def post(self, path: str, **body: Any) -> requests.Response:
        return self._answer("POST", path, json=body)

    def _answer(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            answer = self.session.request(
                method, self.url + path, timeout=REQUEST_SECONDS, **options
            )
        except requests.RequestException as error:
            raise self.failure(f"the host did not answer {method} {path}") from error
        if answer.status_code == 400:
            raise HostError(_refusal(answer))
        answer.raise_for_status()
        return answer

    def system_stats(self) -> dict[str, Any]:
        return self.get("/system_stats")

    def object_info(self) -> dict[str, Any]:
        return self.get("/object_info")

    def upload_image(self, file: Path) -> str:
        """Upload an image; returns its name for Load Image."""
        with file.open("rb") as stream:
            answer = self._answer("POST", "/upload/image", files={"image": (file.name, stream)})
        return answer.json()["name"]

    def queue(self, prompt: Prompt, client: str = "") -> str:
        body = {"prompt": prompt} | ({"client_id": client} if client else {})
        return self.post("/prompt", **body).json()["prompt_id"]

    def watch(self) -> Watch:
        return Watch(self)

    def run(self, prompt: Prompt, report: Callable[[Progress], None] | None = None) -> list[Path]:
        """Queue a prompt, follow it to its end, and return the images that it saved.

        Raises:
            HostError: with the message of the node that refused or failed.
        """
        with self.watch() as watch:
            prompt_id = watch.queue(prompt)
            for progress in watch.progress():
                if report is not None:
                    report(progress)
        # the last message arrives before the result is stored
        wait_until(lambda: bool(self.history(prompt_id)), REQUEST_SECONDS, "no result was stored")
        return self.pictures(prompt_id)

    def history(self, prompt_id: str) -> dict[str, Any]:
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def pictures(self, prompt_id: str) -> list[Path]:
        """Files that a finished prompt saved, in the host's output folder."""
        outputs = self.history(prompt_id).get("outputs", {})
        saved = [item for output in outputs.values() for item in output.get("images", [])]
        folders = {name: self.base / name for name in ("output", "temp", "input")}
        return [folders[item["type"]] / item["subfolder"] / item["filename"] for item in saved]

    def view(self, filename: str, kind: str = "output", subfolder: str = "") -> bytes:
        query = urlencode({"filename": filename, "type": kind, "subfolder": subfolder})
        return self._answer("GET", f"/view?{query}").content

    def interrupt(self) -> None:
        self.post("/interrupt")

    def free(self) -> None:
        """Free all models and cached results, like "free memory" in the menu."""
        self.post("/free", unload_models=True, free_memory=True)


def _refusal(answer: requests.Response) -> str:
    """The host's reasons for refusing a prompt, one sentence per node."""
    try:
        body = answer.json()
    except ValueError:
        return f"the host refused: {answer.text.strip() or answer.reason}"
    reasons = [
        f"{node['class_type']}: {error['message']}: {error['details']}"
        for node in body.get("node_errors", {}).values()
        for error in node["errors"]
    ]
    error = body.get("error", {})
    return "; ".join(reasons) or f"{error.get('message')}: {error.get('details')}"


def link(file: Path, place: Path) -> None:
    """Make `file` (or a folder) available at `place`, by a link where the system allows it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    file = file.resolve()
    if place.is_symlink():  # from an earlier run
        place.unlink()
    elif place.exists():
        return
    try:
        place.symlink_to(file, target_is_directory=file.is_dir())
    except OSError:  # Windows without permission to create links
        if file.is_dir():
            shutil.copytree(file, place, ignore=shutil.ignore_patterns(*NOT_THE_PACK))
        else:
            try:
                os.link(file, place)
            except OSError:
                shutil.copyfile(file, place)


def has_gpu() -> bool:
    import torch

    return torch.accelerator.is_available()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(
    host: Path,
    *,
    models: Mapping[str, Sequence[Path]] | None = None,
    base: Path | None = None,
    arguments: Sequence[str] = (),
    echo: bool = False,
    pack: Path = ROOT,
) -> Iterator[Server]:
    """Start a host with the pack, wait until it answers, and stop it at the end.

    Args:
        host: folder of a ComfyUI.
        models: files by the host's model folder (checkpoints, loras, vae, ...); in a temporary
            base a folder's combo lists exactly these.
        base: folder of the host's models, inputs and outputs; temporary if not given.
        arguments: further arguments for main.py.
        echo: show the host's log instead of keeping it.
        pack: folder of the pack.

    Raises:
        HostError: if the host does not start; with the end of its log.
    """
    with contextlib.ExitStack() as stack:
        if base is None:
            folder = tempfile.TemporaryDirectory(prefix="hypir-host-", ignore_cleanup_errors=True)
            base = Path(stack.enter_context(folder)).resolve()
        for name in ("input", "output", "temp", "custom_nodes", "models"):
            (base / name).mkdir(parents=True, exist_ok=True)
        link(pack, base / "custom_nodes" / PACK)
        for kind, files in (models or {}).items():
            for file in files:
                link(file, base / "models" / kind / file.name)
        port = _free_port()
        command = [sys.executable, str(host / "main.py"), "--port", str(port)]
        command += ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK]
        command += ["--database-url", "sqlite:///:memory:"]
        page = get_frontend()
        command += [] if page is None else ["--front-end-root", str(page)]
        # the host's default attention on a CPU takes more than twice as long
        command += [] if has_gpu() else ["--cpu", "--use-pytorch-cross-attention"]
        log = base / "log.txt"
        stream = stack.enter_context(log.open("wb"))
        output: IO[bytes] | None = None if echo else stream
        process = subprocess.Popen(
            [*command, *arguments], stdout=output, stderr=output, cwd=host, env=_environment()
        )
        server = Server(process, port, base, log)
        stack.callback(server.stop)
        server.wait_until_ready()
        yield server


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
