"""`nox -s two_hosts`: a run on two hosts, of which one is killed, goes on to the same bits.

Two network namespaces of this machine stand for the hosts: each sees only its own interfaces, and
they reach each other over one cable (veth). `accelerate launch` runs on both, with gloo on the CPU;
the folder of the run is shared, as on a cluster. It needs Linux, iproute2 and root.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("hypir-one", "hypir-two")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLE = ("hypir0", "hypir1")
PORT = 29_577
RUN = "sd2 --cpu --base small --data leaves: --crop 32 --batch 1 --pool 4 --workers 0"
RUN += " --precision no --stages encoder --encoder 40x2@1e-4 --checkpoint-every 10 --keep 9"
PATIENCE = 300
"""Seconds for a run to end."""

log = logging.getLogger(__name__)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def hosts() -> Iterator[None]:
    """Two network namespaces with one cable between them."""
    made = []
    try:
        for host in HOSTS:
            ip("netns", "add", host)
            made.append(host)
        ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for host, end, address in zip(HOSTS, CABLE, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", host)
            ip("-n", host, "address", "add", f"{address}/24", "dev", end)
            ip("-n", host, "link", "set", end, "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in made:
            ip("netns", "delete", host)  # and its end of the cable


def start(out: Path) -> list[subprocess.Popen]:
    """The same command on both hosts, as docs/training.md has it."""
    runs = []
    for rank, (host, end) in enumerate(zip(HOSTS, CABLE, strict=True)):
        launch = ["ip", "netns", "exec", host, sys.executable, "-m", "accelerate.commands.launch"]
        # the launcher's name for several processes; the run itself asks for the CPU
        launch += ["--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
        launch += ["--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0]]
        launch += ["--main_process_port", str(PORT), "--mixed_precision", "no"]
        launch += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
        launch += ["-m", "hypir", "train", *RUN.split(), "--out", str(out)]
        told = open(out.parent / f"{out.name}-{host}.log", "a")
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": end, "CUDA_VISIBLE_DEVICES": ""}
        runs.append(
            subprocess.Popen(
                launch, cwd=ROOT, env=environment, stdout=told, stderr=told, start_new_session=True
            )
        )
    return runs


def finish(runs: list[subprocess.Popen], out: Path) -> None:
    """Wait for both; their last words, if one fails."""
    for run, host in zip(runs, HOSTS, strict=True):
        if run.wait(PATIENCE):
            words = (out.parent / f"{out.name}-{host}.log").read_text()[-3000:]
            raise RuntimeError(f"the run on {host} failed ({run.returncode}):\n{words}")


def kill(host: str) -> None:
    """A host that loses its power: all of its processes, at once."""
    told = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True)
    for pid in told.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def checkpoint(out: Path, step: int) -> Path:
    return out / "checkpoints" / "encoder" / f"step-{step:08d}.pt"


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return one == other


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(tempfile.mkdtemp(prefix="two_hosts_"))
    whole, broken = folder / "whole", folder / "broken"
    with hosts():
        began = time.monotonic()
        finish(start(whole), whole)
        log.info("an unbroken run took %.0f s", time.monotonic() - began)
        runs = start(broken)
        limit = time.monotonic() + PATIENCE
        while not checkpoint(broken, 10).is_file():
            if time.monotonic() > limit or any(run.poll() for run in runs):
                raise RuntimeError(f"no checkpoint came to be; look into {folder}")
            time.sleep(0.05)
        kill(HOSTS[1])
        log.info("%s was killed after the checkpoint of step 10", HOSTS[1])
        kill(HOSTS[0])  # gloo may notice only with time; a cluster's manager ends the others
        for run in runs:
            run.wait()
        last = max(int(p.stem[5:]) for p in checkpoint(broken, 0).parent.glob("step-*.pt"))
        if last >= 40:
            raise RuntimeError("the run had ended before it was broken; give it more steps")
        finish(start(broken), broken)
        log.info("the same command on both hosts went on from step %d", last)
    states = [torch.load(checkpoint(out, 40), weights_only=True) for out in (whole, broken)]
    for state in states:
        state.pop("recipe")
    if not same(*states):
        raise RuntimeError(f"the two runs end with other weights; look into {folder}")
    log.info("both runs end with the same bits: weights, optimizer, averages")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
