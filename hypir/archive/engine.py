"""Ray: started here or joined, and the three stages as one pipeline of Ray Data."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters reaches the manifest

import ray
import ray.data

from .places import Place
from .stages import Read, Restore, Row, Write
from .workflow import Recipe

READ_CPUS, WRITE_CPUS = 0.25, 0.2  # unequal, so that Ray Data does not put two stages in one
RETRIES = 3
"""Times that a photo is tried again after its process or machine was lost."""


@contextlib.contextmanager
def engine(address: str | None) -> Iterator[None]:
    """Ray, for the duration of the block.

    Args:
        address: of a running cluster; this machine alone if not given.

    Raises:
        ValueError: if there is no cluster at the address.
    """
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, or "
            "leave --address out to use this machine alone"
        ) from error
    for name in ("ray", "ray.data", "ray._private.worker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # `retries` below can be said in no other way until Ray 2.64
    warnings.filterwarnings("ignore", module="ray|hypir.archive.engine")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a photo that cannot be done does not stop the others
    context.raise_original_map_exception = True
    try:
        yield
    finally:
        ray.shutdown()


def number_of_hosts(asked: str) -> int:
    """How many hosts to run: as asked, or one per GPU, or one per machine without GPUs.

    Raises:
        ValueError: if what is asked is not a number of hosts.
    """
    if asked == "auto":
        return int(ray.cluster_resources().get("GPU", 0)) or machines()
    if not asked.isdecimal() or not int(asked):
        raise ValueError(f"--hosts must be auto or a number from 1, got {asked}")
    return int(asked)


def machines() -> int:
    """Machines of the cluster that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


def restored(
    todo: Place,
    folder: str,
    ends: tuple[str, str],
    recipe: Recipe,
    hosts: int,
    output: tuple[str, int | None],
    comfyui: tuple[str | None, tuple[str, ...]],
) -> Iterator[Row]:
    """The report of every photo as it is done, in any order.

    Args:
        todo, folder: where the lists of photos lie, as Parquet.
        ends: source and target.
        recipe: what is done to each.
        hosts: how many ComfyUI to run.
        output: format and quality.
        comfyui: folder of the ComfyUI of this machine, and further arguments for it.
    """
    source, target = ends
    need: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0}
    if not ray.cluster_resources().get("GPU", 0):
        # a host takes all cores, whatever is said here; reading needs a whole one that is free
        roomy = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]) >= 2
        need = {"num_cpus": 0.5 / hosts if roomy else 0}
    photos = (
        ray.data.read_parquet(todo.path(folder), filesystem=todo.system)
        .repartition(target_num_rows_per_block=1)
        .map(
            Read(source, target).__call__,
            num_cpus=READ_CPUS,
            ray_remote_args_fn=lambda: {"max_retries": RETRIES},
        )
        .map(
            Restore,
            fn_constructor_args=(recipe, *comfyui),
            compute=ray.data.ActorPoolStrategy(size=hosts, max_tasks_in_flight_per_actor=2),
            ray_remote_args_fn=lambda: {
                "max_restarts": -1,
                "max_task_retries": RETRIES,
                "scheduling_strategy": "SPREAD",
            },
            **need,
        )
        .map(
            Write(target, *output).__call__,
            num_cpus=WRITE_CPUS,
            ray_remote_args_fn=lambda: {"max_retries": RETRIES},
        )
    )
    yield from photos.iter_rows()
