"""What can be reached from the host's objects: patches of other nodes, and what these hold."""

import functools
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

MOST_OBJECTS = 100_000
PACK = __name__.removesuffix("nodes.host.reach")
# Of these, objects are no patches: the server, its queue, the host's own machinery.
_NOT_ENTERED = {*sys.stdlib_module_names, "server", "execution", "comfy_execution", "app", "torch"}
_NOT_ENTERED |= {"numpy", "folder_paths", "aiohttp"}
EMPTY = object()
"""Stands for a closure's variable that has no value yet."""


def reached_from(roots: Iterable) -> Iterator[Any]:
    """Every object once that other nodes can have made: containers, functions, instances."""
    todo, seen = deque(roots), set()
    while todo and len(seen) < MOST_OBJECTS:
        found = todo.popleft()
        if id(found) in seen or not is_entered(found):
            continue
        seen.add(id(found))
        yield found
        todo.extend(children(found))


def is_entered(found) -> bool:
    """Whether the object is looked into: not numbers, tensors, networks, modules or models."""
    if isinstance(found, Tensor | torch.nn.Module | ModuleType | type | str | bytes | int | float):
        return False
    if isinstance(found, comfy.model_patcher.ModelPatcher):
        return False
    if isinstance(found, dict | list | tuple | set | frozenset | deque | functools.partial):
        return True
    module = getattr(found, "__module__", None) or type(found).__module__
    if module.startswith(PACK):
        return False
    if isinstance(found, FunctionType | MethodType):
        return True
    return hasattr(found, "__dict__") and module.partition(".")[0] not in _NOT_ENTERED


def children(found) -> list:
    """What an object that is entered holds directly."""
    if isinstance(found, dict):
        return list(found.values())
    if isinstance(found, list | tuple | set | frozenset | deque):
        return list(found)
    if isinstance(found, MethodType):
        return [found.__self__, found.__func__]
    if isinstance(found, functools.partial):
        return [found.func, found.args, found.keywords]
    if isinstance(found, FunctionType):
        defaults = [found.__defaults__, found.__kwdefaults__, found.__dict__]
        return [*variables(found), *(d for d in defaults if d)]
    return list(vars(found).values())


def variables(function: FunctionType) -> list:
    """Values of the variables that a function shares with the one around it."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            values.append(EMPTY)
    return values
