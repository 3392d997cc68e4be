"""Other nodes' patches on the model: they must not treat a tile as a step of a sampler.

Wrappers that save computation (such as EasyCache) or average guidance over the steps keep data of
one call for the next. Here every call of a run is the first step of a sampling run: data kept by a
wrapper are reset before the next call, and a wrapper that skips the network is refused. Random
numbers drawn by a patch are the same for every call.
"""

import functools
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .door import KEY
from .memory import is_out_of_memory
from .reach import EMPTY, PACK, children, is_entered, reached_from, variables

# The host's own options without patches: models, threads, weight hooks.
_HOSTS = {"multigpu_clones", "multigpu_thread_pool", "registered_hooks", "to_load_options"}
# Attributes of every guider of the host; all others belong to a special guider.
_GUIDERS = {
    *("conds", "original_conds", "inner_model", "model_patcher", "loaded_models", "model_options"),
    *("cfg", "cfg1", "cfg2"),
}
_ON_PREDICTIONS = (
    *("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function"),
    *("sampler_calc_cond_batch_function", "context_handler"),
)
_SEED = 0


class FreshState:
    """The state of other nodes' patches on a model, as before the first call."""

    def __init__(self, guider, model_options: dict):
        """Args: guider: of the run; model_options: of the run, with all patches."""
        roots = [
            {key: value for key, value in options.items() if key not in _HOSTS}
            for options in (model_options, guider.model_options)
        ]
        roots.append({k: v for k, v in vars(guider).items() if k not in _GUIDERS})
        network = guider.inner_model.diffusion_model
        self._recorded: dict[int, list] = {}
        self._kept: list[tuple[Any, Any]] = [(network, _content(network))]
        for found in reached_from([*roots, *_content(network).values()]):
            content = _content(found)
            if content is not None:
                self._kept.append((found, content))

    def rewind(self) -> None:
        """Reset everything that has stored a tensor since."""
        for holder, before in self._kept:
            now = _content(holder)
            old = {id(value) for value in _values(before)}
            new = [value for value in _values(now) if id(value) not in old]
            if any(_holds_tensor(value) for value in new):
                if isinstance(holder, list) and _starts_with(now, before):
                    self._recorded.setdefault(id(holder), []).extend(now[len(before) :])
                _restore(holder, before)

    def hand_back(self) -> None:
        """After the last call: a list that grew with every call is a record and gets all
        entries."""
        for holder, before in self._kept:
            seen = self._recorded.get(id(holder))
            if seen:
                holder[len(before) : len(before)] = seen


class NetworkWatch:
    """Detects whether the network itself runs, below all wrappers of other nodes."""

    def __init__(self, model_options: dict):
        """Args: model_options: of the run; wrappers are added."""
        self._calls = {"reached": 0, "entered": 0, "ran": 0}
        wrappers = model_options["transformer_options"].setdefault("wrappers", {})
        _put_last(wrappers, WrappersMP.APPLY_MODEL, self._counting("reached"))
        deep = wrappers.get(WrappersMP.DIFFUSION_MODEL)
        # Only around other wrappers: a compiled network must not be compiled with ours.
        if deep:
            wrappers[WrappersMP.DIFFUSION_MODEL] = {
                f"{KEY} first": [self._counting("entered")],
                **deep,
            }
            _put_last(wrappers, WrappersMP.DIFFUSION_MODEL, self._counting("ran"))

    def _counting(self, place: str) -> Callable:
        def count(executor, *args, **kwargs):
            self._calls[place] += 1
            return executor(*args, **kwargs)

        return count

    @contextmanager
    def one_call(self, is_asked: Callable[[], bool]) -> Iterator[None]:
        """Raise ValueError if the network did not run inside although it `is_asked` to."""
        before = dict(self._calls)
        yield
        calls = {place: count - before[place] for place, count in self._calls.items()}
        # Some networks of the host (SD3's) run none of the wrappers around themselves.
        ran = calls["ran"] if calls["entered"] else calls["reached"]
        if not ran and is_asked():
            raise ValueError(
                "a node on the model (such as EasyCache or TeaCache) skipped the network: it "
                "treats HYPIR's tiles as steps of a sampler; remove it, because a single step has "
                "nothing to skip"
            )


def _put_last(wrappers: dict, kind: str, wrapper: Callable) -> None:
    wrappers.setdefault(kind, {}).setdefault(KEY, []).append(wrapper)


@contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Turn an error of the network, or of a patch that does not fit it, into a ValueError.

    Errors of this pack and those about memory pass unchanged.
    """
    try:
        yield
    except Exception as error:
        frame, _ = list(traceback.walk_tb(error.__traceback__))[-1]
        if is_out_of_memory(error) or frame.f_globals.get("__name__", "").startswith(PACK):
            raise
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"HYPIR step: the network failed ({type(error).__name__} in "
            f"{Path(frame.f_code.co_filename).name}: {said}); a node on the model may be made for "
            "another kind of model: remove the nodes between the loaders and this one, one by one"
        ) from error


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Make patches that draw random numbers (HyperTile, token merging) draw the same for every
    call, and restore the global random state."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(_SEED)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_SEED)
        yield


def see_the_batch(model_options: dict) -> bool:
    """Whether a node on the model processes the predictions of a whole call.

    Some treat the entries of a batch as frames, or average over them: they get single tiles.
    """
    wrappers = model_options["transformer_options"].get("wrappers", {})
    return any(model_options.get(name) for name in _ON_PREDICTIONS) or any(
        key != KEY and found
        for kind in (WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH)
        for key, found in wrappers.get(kind, {}).items()
    )


def check_negative(guider) -> None:
    """Raise ValueError if a node on the model needs a negative prompt and there is none."""
    asked = guider.model_options.get("disable_cfg1_optimization", False)
    if asked and not guider.conds.get("negative"):
        raise ValueError(
            "a node on the model (such as Self-Attention Guidance) needs a negative prompt, but "
            "there is none here; use HYPIR Sampler with CFG Guider, or remove that node"
        )


def _content(found) -> Any:
    """Its contents, copied one level deep; None if nothing can be restored."""
    if isinstance(found, torch.nn.Module):
        inner = ("_parameters", "_buffers", "_modules")
        return {k: v for k, v in vars(found).items() if k not in inner}
    if isinstance(found, dict | list | set | deque):
        return found.copy()
    if isinstance(found, FunctionType):
        return variables(found)
    if isinstance(found, tuple | frozenset | MethodType | functools.partial):
        return None
    return dict(vars(found))


def _restore(holder, content) -> None:
    if isinstance(holder, torch.nn.Module):
        for name in _content(holder).keys() - content.keys():
            delattr(holder, name)
        vars(holder).update(content)
    elif isinstance(holder, FunctionType):
        for cell, value in zip(holder.__closure__ or (), content, strict=True):
            if value is EMPTY:
                del cell.cell_contents
            else:
                cell.cell_contents = value
    else:
        target = holder if isinstance(holder, dict | list | set | deque) else vars(holder)
        target.clear()
        (target.extend if isinstance(target, list | deque) else target.update)(content)


def _starts_with(now: list, before: list) -> bool:
    return len(now) >= len(before) and all(a is b for a, b in zip(now, before, strict=False))


def _values(content) -> list:
    return list(content.values() if isinstance(content, dict) else content)


def _holds_tensor(value, depth: int = 3) -> bool:
    if isinstance(value, Tensor):
        return True
    if depth == 0 or not is_entered(value):
        return False
    return any(_holds_tensor(child, depth - 1) for child in children(value))
