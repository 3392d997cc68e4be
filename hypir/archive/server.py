"""A ComfyUI that runs for the duration of a `with` block, and its HTTP API.

with started([python, "main.py", ...], base, folder) as server:
    server.run(prompt)
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests
import websocket

START_SECONDS = 240
STOP_SECONDS = 20
REQUEST_SECONDS = 60
SILENCE_SECONDS = 1800  # one step of a large image on a CPU can take minutes
TAIL_LINES = 40

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
        """Queue a prompt whose messages this watches; returns its id."""
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
        """Raises HostError with the end of the log if the host does not start."""
        try:
            wait_until(self.answers, seconds, "the host did not start")
        except HostError as error:
            raise self.failure(str(error)) from None

    def answers(self) -> bool:
        """Whether the host answers; raises HostError if it has ended."""
        if self.process.poll() is not None:
            raise HostError("the host exited while starting")
        try:
            return self.session.get(f"{self.url}/system_stats", timeout=5).ok
        except requests.RequestException:
            return False

    def failure(self, what: str) -> HostError:
        """An error with the end of the host's log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return HostError(f"{what}; the end of its log:\n{tail}")

    def stop(self) -> None:
        """End the host; one that does not end by itself is killed."""
        self.session.close()
        if self.process.stdin is not None:  # closed, it tells the guard to end the host
            self.process.stdin.close()
        elif self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # ----------------------------------------------------------------- HTTP

    def get(self, path: str, **query: str) -> Any:
        """The JSON of an address."""
        return self._answer("GET", path, params=query).json()

    def post(self, path: str, **body: Any) -> requests.Response:
        """Send JSON to an address."""
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
        """Versions, devices and memory."""
        return self.get("/system_stats")

    def object_info(self) -> dict[str, Any]:
        """Schemas of all nodes by class."""
        return self.get("/object_info")

    def upload_image(self, file: Path) -> str:
        """Upload an image; returns its name for Load Image."""
        with file.open("rb") as stream:
            answer = self._answer("POST", "/upload/image", files={"image": (file.name, stream)})
        return answer.json()["name"]

    def queue(self, prompt: Prompt, client: str = "") -> str:
        """Queue a prompt; returns its id."""
        body = {"prompt": prompt} | ({"client_id": client} if client else {})
        return self.post("/prompt", **body).json()["prompt_id"]

    def watch(self) -> Watch:
        """A watch for one prompt."""
        return Watch(self)

    def run(self, prompt: Prompt, report: Callable[[Progress], None] | None = None) -> list[Path]:
        """Queue a prompt, follow it to its end, and return the images that it saved.

        Raises:
            HostError: with the message of the node that refused or failed.
        """
        return self.run_named(prompt, report)[1]

    def run_named(
        self, prompt: Prompt, report: Callable[[Progress], None] | None = None
    ) -> tuple[str, list[Path]]:
        """As `run`; also the prompt's id in the history."""
        with self.watch() as watch:
            prompt_id = watch.queue(prompt)
            for progress in watch.progress():
                if report is not None:
                    report(progress)
        # the last message arrives before the result is stored
        wait_until(lambda: bool(self.history(prompt_id)), REQUEST_SECONDS, "no result was stored")
        return prompt_id, self.pictures(prompt_id)

    def seconds(self, prompt_id: str) -> float:
        """How long a finished prompt took, by the host's own clock; then it is forgotten."""
        messages = dict(self.history(prompt_id)["status"]["messages"])
        self.post("/history", delete=[prompt_id])
        began, ended = messages["execution_start"], messages["execution_success"]
        return (ended["timestamp"] - began["timestamp"]) / 1000

    def is_well(self) -> bool:
        """Whether the host runs and answers; one that was killed needs a moment to be gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        with contextlib.suppress(HostError):
            return self.answers()
        return False

    def history(self, prompt_id: str) -> dict[str, Any]:
        """What is stored of a prompt; empty while it runs."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def pictures(self, prompt_id: str) -> list[Path]:
        """Files that a finished prompt saved, in the host's output folder."""
        outputs = self.history(prompt_id).get("outputs", {})
        saved = [item for output in outputs.values() for item in output.get("images", [])]
        folders = {name: self.base / name for name in ("output", "temp", "input")}
        return [folders[item["type"]] / item["subfolder"] / item["filename"] for item in saved]

    def view(self, filename: str, kind: str = "output", subfolder: str = "") -> bytes:
        """Content of a file in one of the host's folders."""
        query = urlencode({"filename": filename, "type": kind, "subfolder": subfolder})
        return self._answer("GET", f"/view?{query}").content

    def interrupt(self) -> None:
        """Stop the running prompt."""
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
