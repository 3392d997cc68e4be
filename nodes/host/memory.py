"""Memory, progress and cancelling, with the host's own functions."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import comfy.model_management
import comfy.utils
import torch
from comfy_execution.utils import get_executing_context
from PIL import Image

from ...hypir.tiling import TilePlan, fitting, lower_limit
from .measure import Measure

log = logging.getLogger(__name__)

CALL_CELLS = 128 * 128
"""Most latent cells in one call (1024 x 1024 px): enough to keep a GPU busy, and a bound on the
memory of a call for any image size."""

PREVIEW_PX = 512
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What Metal, DirectML and torch's CPU allocator say in a RuntimeError; the host does not ask."""
GIB = 2**30
T = TypeVar("T")


def planned_batch(
    plan: TilePlan, count: int, needed: Callable[[TilePlan, int], float], patcher
) -> int:
    """Tiles per call: up to CALL_CELLS, limited by the free memory.

    Args:
        plan: the tiles.
        count: how many tiles there are, of all images.
        needed: (plan, number of tiles) -> bytes, the host's estimate.
        patcher: the model's patcher; it knows which of its weights could be unloaded.
    """
    batch = min(count, max(1, CALL_CELLS // (plan.rows.tile * plan.columns.tile)))
    free = patcher.get_free_memory(patcher.load_device)
    while batch > 1 and needed(plan, batch) > free:
        batch //= 2
    return batch


def run_on_ladder(
    stage: str,
    plan_for: Callable[[int | None], TilePlan],
    batch_for: Callable[[TilePlan], int],
    run: Callable[[TilePlan, int], T],
    needed: Callable[[TilePlan], float],
    device: torch.device,
) -> T:
    """Run a stage with the planned tiles, or with smaller ones if they do not fit in memory.

    Tiles that cannot fit are not tried. After an out-of-memory error the stage starts again with
    one tile per call; if it already had one, with the next smaller tiles. Each change is logged,
    because other tiles give a slightly different image.

    Args:
        stage: name for the log.
        plan_for: largest side of a tile in cells (None = as planned) -> the tiles.
        batch_for: tiles -> number of tiles per call, at most all of them.
        run: (tiles, tiles per call) -> the result.
        needed: tiles -> bytes for one tile, the host's estimate.
        device: the device of the stage.

    Raises:
        RuntimeError: if the smallest tiles do not fit either.
    """
    planned = plan_for(None)
    total = total_memory(device)
    plan = fitting(plan_for, needed, total)
    if plan != planned:
        log.warning(
            "HYPIR %s: a tile of the planned size needs about %.1f GiB, the device has %.1f GiB; "
            "using %s instead of %s",
            *(stage, needed(planned) / GIB, total / GIB, plan.describe(), planned.describe()),
        )
    alone = False
    while True:
        batch = 1 if alone else batch_for(plan)
        measure = Measure(device)
        try:
            result = run(plan, batch)
            log.info("HYPIR %s: %s, %s, %d per call", *(stage, measure, plan.describe(), batch))
            return result
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Outside the except block: the exception holds every tensor of the failed call.
        comfy.model_management.soft_empty_cache()
        alone = True
        if batch > 1:
            log.warning(
                "HYPIR %s: out of memory with %d tiles per call; starting again with one per call",
                *(stage, batch),
            )
            continue
        free = comfy.model_management.get_free_memory(device)
        limit = lower_limit(plan)
        if limit is None:
            raise RuntimeError(
                f"HYPIR {stage} ran out of memory with the smallest tiles ({plan.describe()}): it "
                f"needs about {needed(plan) / GIB:.1f} GiB, and {free / GIB:.1f} GiB are free; "
                "close other programs or restore a smaller image"
            )
        smaller = plan_for(limit)
        log.warning(
            "HYPIR %s: out of memory with %s; starting again with %s",
            *(stage, plan.describe(), smaller.describe()),
        )
        plan = smaller


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on any device."""
    try:
        comfy.model_management.raise_non_oom(error)
    except Exception:
        said = str(error).lower()
        return isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY)
        )
    return True


def total_memory(device: torch.device) -> float:
    """Of the device, in bytes; infinite where the host does not know it.

    Of DirectML it always says 1 GiB: there the ladder after a real out-of-memory decides.
    """
    if comfy.model_management.is_directml_enabled():
        return float("inf")
    total = comfy.model_management.get_total_memory(device)
    return total - comfy.model_management.extra_reserved_memory()


def check_cancelled() -> None:
    """Stop the run here if the user pressed cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


_outer: ContextVar[str] = ContextVar("outer", default="")


@contextmanager
def part_of(outer: str) -> Iterator[None]:
    """Within it, stages show their text after that of the outer loop, which owns the bar."""
    token = _outer.set(outer)
    try:
        yield
    finally:
        _outer.reset(token)


def show_progress_text(stage: str, done: int, total: int) -> None:
    """Show stage and tile as text on the running node: encode 3/12."""
    outer = _outer.get()
    show_text(f"{outer}, {stage} {done}/{total}" if outer else f"{stage} {done}/{total}")


def show_text(text: str) -> None:
    """Show a text on the running node."""
    running = get_executing_context()
    if running is not None:  # only a prompt of a running server has a page that shows the text
        # imported here, because the host's module needs the packages of its server
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, running.node_id)


class Progress:
    """The progress bar of a node, one step per tile, and the text that names the stage."""

    def __init__(self, stage: str, total: int):
        self._stage = stage
        self._bar = None if _outer.get() else comfy.utils.ProgressBar(total)
        show_progress_text(stage, 0, total)

    def update(self, done: int, total: int, pixels: torch.Tensor | None = None) -> None:
        """Show `pixels` (B, 3, H, W) in [0, 1], the image so far, as a preview."""
        preview = None
        if pixels is not None and self._bar is not None:
            stride = -(-max(pixels.shape[-2:]) // PREVIEW_PX)
            small = pixels[0, :, ::stride, ::stride].clamp(0, 1).mul(255).byte()
            image = Image.fromarray(small.movedim(0, -1).contiguous().cpu().numpy())
            preview = ("JPEG", image, PREVIEW_PX)
        if self._bar is not None:
            self._bar.update_absolute(done, total, preview)
        show_progress_text(self._stage, done, total)


def follow(stage: str) -> Callable[[int, int], None]:
    """What a loop without tiles calls after each part, with parts done and parts in all.

    Shows percents on the node, and ends the run there if the user pressed cancel.
    """
    bar = None
    shown = 0

    def on_part(done: int, total: int) -> None:
        nonlocal bar, shown
        check_cancelled()
        percent = 100 * done // total
        if bar is None:
            bar = Progress(stage, 100)
        if percent > shown:  # a page wants no message for every part of a long clip
            shown = percent
            bar.update(percent, 100)

    return on_part


def describe_plan(stage: str, plan: TilePlan, height: int, width: int) -> None:
    """Write one line per stage to the log."""
    log.info("HYPIR %s: %dx%d px in %s", stage, width, height, plan.describe())
