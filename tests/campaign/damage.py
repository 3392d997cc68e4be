"""Damaged weight files, for hypothesis to draw: bytes, containers, headers, tensors, metadata."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from .malice import malicious


@dataclass(frozen=True)
class Sound:
    """A sound file, of which the damaged ones are made."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    """Empty: a pickle, in the public layout."""

    def __repr__(self) -> str:
        return f"{len(self.tensors)} tensors"


@dataclass(frozen=True)
class Damaged:
    what: str
    suffix: str
    content: bytes

    def __repr__(self) -> str:
        return f"{self.what} ({self.suffix}, {len(self.content)} bytes)"


DTYPES = [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64, torch.float16]
DTYPES += [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
SUFFIXES = [".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin"]
NUMBERS = ["nan", "inf", "-1", "1e999", "0", "9" * 30, "9" * 5000, "1_0", " 7 ", "0x10", ""]
STRUCTURES = ["[" * 100_000, "{" * 50_000, "[" * 2000 + "]" * 2000, '{"a": ' + "9" * 400 + "}"]
STRUCTURES += ["[]", "{}", "null", "[null]", "[[]]", '{"a": []}', '["a", "a"]', "\ud800", "\0"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


def zipped(tensors: Mapping, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(dict(tensors), stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def container(draw, tensors: Mapping, metadata: Mapping[str, str]) -> tuple[str, bytes]:
    """Suffix and bytes of a whole file: a safetensors if it has metadata, or a pickle."""
    if metadata and all(isinstance(v, Tensor) for v in tensors.values()):
        plain = {str(k): v.clone().contiguous() for k, v in tensors.items()}
        return ".safetensors", save(plain, dict(metadata))
    suffix = draw(st.sampled_from([".pth", ".pt", ".ckpt"]))
    return suffix, zipped(tensors, draw(st.booleans()))


@st.composite
def broken_bytes(draw, sound: Sound) -> Damaged:
    """Flipped bits, cuts, pieces that are missing, doubled or exchanged."""
    suffix, content = container(draw, sound.tensors, sound.metadata)
    size = len(content)
    # the first and the last bytes hold headers, the rest mostly numbers
    place = st.integers(0, size - 1) | st.integers(0, min(size, 3000) - 1)
    place |= st.integers(max(0, size - 3000), size - 1)
    what = draw(
        st.sampled_from(["bits", "bytes", "cut", "hole", "double", "swap", "tail", "zeros"])
    )
    changed = bytearray(content)
    first, second = sorted((draw(place), draw(place)))
    length = draw(st.integers(1, 4096))
    if what == "bits":
        for at in draw(st.lists(place, min_size=1, max_size=16)):
            changed[at] ^= 1 << draw(st.integers(0, 7))
    elif what == "bytes":
        for at in draw(st.lists(place, min_size=1, max_size=16)):
            changed[at] = draw(st.integers(0, 255))
    elif what == "cut":
        del changed[first:]
    elif what == "hole":
        del changed[first : first + length]
    elif what == "double":
        changed[first:first] = content[first : first + length]
    elif what == "swap":
        a, b = content[first : first + 64], content[second : second + 64]
        changed[first : first + len(a)], changed[second : second + len(b)] = b[: len(a)], a
    elif what == "tail":
        changed += draw(st.binary(min_size=1, max_size=200))
    else:
        changed[first : first + length] = bytes(len(changed[first : first + length]))
    if draw(st.integers(0, 9)) == 0:
        suffix = draw(st.sampled_from(SUFFIXES))
    return Damaged(f"bytes: {what}", suffix, bytes(changed))


@st.composite
def broken_tensors(draw, sound: Sound) -> Damaged:
    """Tensors that are exchanged, absent, doubled, of other shape, type or value."""
    tensors = dict(sound.tensors)
    said = []
    kinds = ["swap", "drop", "rename", "shape", "dtype", "value", "empty", "scalar", "stray"]
    kinds += ["nested", "key", "grown"]
    for what in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3)):
        names = [k for k, v in tensors.items() if isinstance(v, Tensor)]
        if len(names) < 2:
            break
        one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        value = tensors[one]
        said.append(what)
        if what == "swap":
            tensors[one], tensors[other] = tensors[other], value
        elif what == "drop":
            del tensors[one]
        elif what == "rename":
            del tensors[one]
            tensors[draw(st.sampled_from([one + ".", one[1:], "unet." + one, "x", ""]))] = value
        elif what == "shape":
            tensors[one] = draw(st.sampled_from([value[None], value.flatten(), value.T]))
        elif what == "dtype":
            tensors[one] = value.to(draw(st.sampled_from(DTYPES)))
        elif what == "value":
            bad = value.clone().flatten().float()
            if len(bad):
                numbers = [float("nan"), float("inf"), -float("inf"), 3e38]
                bad[draw(st.integers(0, len(bad) - 1))] = draw(st.sampled_from(numbers))
            tensors[one] = bad.reshape(value.shape)
        elif what == "empty":
            tensors[one] = value[:0] if value.ndim else value
        elif what == "scalar":
            tensors[one] = torch.tensor(1.0)
        elif what == "stray":
            tensors[draw(st.text(max_size=20))] = torch.zeros(2, 2)
        elif what == "nested":
            tensors[one] = draw(st.sampled_from([{"a": value}, [value], None, 3, "x"]))
        elif what == "key":
            tensors[draw(st.sampled_from([0, None, (1, 2), 1.5, True]))] = value
        else:
            tensors[one] = torch.cat([value, value]) if value.ndim else value
    return Damaged(f"tensors: {', '.join(said)}", *container(draw, tensors, sound.metadata))


@st.composite
def broken_metadata(draw, sound: Sound) -> Damaged:
    """hypir.* entries that are absent, exchanged, or anything else."""
    metadata = dict(sound.metadata)
    if not metadata:
        return draw(broken_tensors(sound))
    keys = sorted(k for k in metadata if k.startswith("hypir."))
    anything = st.sampled_from(NUMBERS + STRUCTURES) | st.text(max_size=30) | JSON.map(json.dumps)
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True)):
        if draw(st.booleans()):
            metadata[key] = draw(anything).encode("utf-8", "replace").decode()
        elif draw(st.booleans()):
            del metadata[key]
        else:
            metadata[key] = metadata.get(draw(st.sampled_from(keys)), "")
    return Damaged("metadata", *container(draw, sound.tensors, metadata or {"a": "b"}))


@st.composite
def broken_header(draw, sound: Sound) -> Damaged:
    """A safetensors whose header tells lies: lengths, offsets, shapes, types, names twice."""
    plain = {k: v.clone().contiguous() for k, v in sound.tensors.items()}
    content = save(plain, dict(sound.metadata) or None)
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    what = draw(st.sampled_from(["length", "entry", "twice", "json", "depth", "text", "huge"]))
    name = draw(st.sampled_from(sorted(k for k in header if k != "__metadata__")))
    text = None
    if what == "length":
        edges = [0, 1, length - 1, length + 1, len(content), 100_000_001, 2**31, 2**63, 2**64 - 1]
        wrong = draw(st.sampled_from(edges) | st.integers(0, 2**64 - 1))
        return Damaged("header: length", ".safetensors", struct.pack("<Q", wrong) + content[8:])
    if what == "entry":
        big = st.integers(-(2**64), 2**64)
        values = {
            "data_offsets": st.lists(big, max_size=3) | st.just([0, 2**63]) | JSON,
            "shape": st.lists(st.integers(0, 2**33) | big, max_size=5) | JSON,
            "dtype": st.sampled_from(["F4", "F8_E8M0", "F64", "I8", "BOOL", "", "C64"]) | JSON,
        }
        key = draw(st.sampled_from(sorted(values)))
        header[name][key] = draw(values[key])
    elif what == "twice":
        entry = json.dumps(name) + ":" + json.dumps(header[name]) + ","
        again = '"__metadata__":' + json.dumps({"hypir.format": "1"}) + ","
        text = "{" + draw(st.sampled_from([entry, again])) + json.dumps(header)[1:]
    elif what == "json":
        header = draw(JSON)
    elif what == "depth":
        text = draw(st.sampled_from(STRUCTURES[:3]))
    elif what == "text":
        text = draw(st.text(max_size=60)).encode("utf-8", "replace").decode()
    else:
        header[name]["shape"] = [2 ** draw(st.integers(20, 62))]
        header["a" * draw(st.integers(1, 200_000))] = header[name]
    raw = (json.dumps(header) if text is None else text).encode()
    return Damaged(f"header: {what}", ".safetensors", struct.pack("<Q", len(raw)) + raw + data)


def damaged(sounds: list[Sound], trap: str) -> st.SearchStrategy[Damaged]:
    """Any damage of any of the files; malicious ones make the folder `trap` if their code runs."""

    def of(sound: Sound) -> st.SearchStrategy[Damaged]:
        evil = malicious(dict(sound.tensors), trap).map(lambda found: Damaged(*found))
        ways = [broken_bytes, broken_bytes, broken_tensors, broken_metadata, broken_header]
        return st.one_of(*(way(sound) for way in ways), evil)

    return st.sampled_from(sounds).flatmap(of)
