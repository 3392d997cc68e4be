"""Pickles that run code where they are loaded without care; here they make a folder."""

from __future__ import annotations

import builtins
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import subprocess
import sys
import timeit
import zipfile

import torch
from hypothesis import strategies as st


class Calls:
    """Its pickle calls a function."""

    def __init__(self, function, *arguments, state=None):
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self._reduced


def ways(trap: str) -> dict[str, object]:
    """What a pickle can be made to call, by name."""
    code = f"import os; os.mkdir({trap!r})"
    make = Calls(os.mkdir, trap)
    return {
        "os.mkdir": make,
        "os.system": Calls(os.system, f'mkdir "{trap}"'),
        "os.popen": Calls(os.popen, f'mkdir "{trap}"'),
        "exec": Calls(builtins.exec, code),
        "eval": Calls(builtins.eval, f"__import__('os').mkdir({trap!r})"),
        "compile": Calls(builtins.compile, code, "x", "exec"),
        "Popen": Calls(subprocess.Popen, [sys.executable, "-c", code]),
        "check_output": Calls(subprocess.check_output, ["mkdir", trap]),
        "partial": Calls(functools.partial, os.mkdir, trap),
        "apply": Calls(operator.call, os.mkdir, trap) if hasattr(operator, "call") else make,
        "getattr": Calls(builtins.getattr, make, "real"),
        "import": Calls(importlib.import_module, "antigravity"),
        "runpy": Calls(runpy.run_path, trap + ".py"),
        "timeit": Calls(timeit.timeit, code),
        "pickle in a pickle": Calls(pickle.loads, pickle.dumps(make)),
        "torch.load": Calls(torch.load, trap + ".pth"),
        "storage from bytes": Calls(torch.storage._load_from_bytes, pickle.dumps(make)),
        "jit": Calls(torch.jit.load, trap + ".pt"),
        "state": Calls(torch.nn.Module, state={"forward": make}),
        "ordered dict": Calls(dict, [("a", make)]),
        "rebuilt tensor": Calls(torch._utils._rebuild_tensor_v2, make, 0, (1,), (1,), False, make),
        "parameter": Calls(torch._utils._rebuild_parameter, make, False, make),
        "set": {make},
    }


RAW = {
    # a mark, the module's name, the argument, and the oldest of the opcodes that call
    "opcode INST": lambda trap: b"(V" + trap.encode() + b"\nios\nmkdir\n.",
    "opcode OBJ": lambda trap: b"(cos\nmkdir\nV" + trap.encode() + b"\no.",
    "opcode GLOBAL": lambda trap: b"cos\nmkdir\n(V" + trap.encode() + b"\ntR.",
    "opcode STACK_GLOBAL": lambda trap: (
        (b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93X" + len(trap).to_bytes(4, "little") + trap.encode())
        + b"\x85R."
    ),
    "opcode BUILD": lambda trap: (
        b"c__main__\nx\n}V__setstate__\ncos\nmkdir\nsbV" + trap.encode() + b"\nb."
    ),
    "extension": lambda trap: b"\x80\x02\x82\x01.",
    "endless memo": lambda trap: b"\x80\x02" + b"]q\xff" * 1000 + b".",
    "large frame": lambda trap: b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
    "large text": lambda trap: b"\x80\x02X\xff\xff\xff\x7f.",
    "large long": lambda trap: b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "deep": lambda trap: b"\x80\x02" + b"(" * 100_000 + b".",
}


def places(tensors: dict, evil: object) -> dict[str, object]:
    """Where among the tensors it can stand."""
    return {
        "alone": evil,
        "last": {**tensors, "more": evil},
        "first": {"more": evil, **tensors},
        "in a list": {**tensors, "more": [1, [evil]]},
        "in a state": {"state_dict": tensors, "optimizer": {"a": evil}},
    }


@st.composite
def malicious(draw, tensors: dict, trap: str) -> tuple[str, str, bytes]:
    """What it is, a suffix, and the bytes."""
    suffix = draw(st.sampled_from([".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".sft"]))
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(RAW)))
        return f"malice: {name}", suffix, wrapped(draw(st.booleans()), RAW[name](trap))
    name = draw(st.sampled_from(sorted(ways(trap))))
    few = dict(list(tensors.items())[:3])
    place = draw(st.sampled_from(sorted(places(few, None))))
    found = places(few, ways(trap)[name])[place]
    how = draw(st.sampled_from(["zip", "legacy", "pickle", "pickle in zip"]))
    if how == "zip" or how == "legacy":
        stream = io.BytesIO()
        protocol = draw(st.integers(2, 4))
        zipped = how == "zip"
        torch.save(found, stream, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        content = stream.getvalue()
    else:
        plain = pickle.dumps(found, protocol=draw(st.integers(0, pickle.HIGHEST_PROTOCOL)))
        content = wrapped(how == "pickle in zip", plain)
    return f"malice: {name}", suffix, content


def wrapped(in_zip: bool, content: bytes) -> bytes:
    """Bare, or as the pickle of an archive like torch's."""
    if not in_zip:
        return content
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return stream.getvalue()
