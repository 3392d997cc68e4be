"""Files on disk: nothing in a pickle runs, damage has a sentence, a failed write leaves nothing."""

import errno
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from hypir.weight_files import load_plain, read_tensors, write_tensors


class MakesAFolder:
    """A pickle of this makes a folder where it is loaded without care."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return {f"blocks.{n}.weight": torch.randn(3, 4, generator=generator) for n in range(4)}


def save_zip(tensors, path):
    torch.save(tensors, path)


def save_legacy(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def save_pickle(tensors, path):
    path.write_bytes(pickle.dumps(tensors, protocol=2))  # torch's own


@pytest.mark.parametrize("name", ["w.pth", "w.ckpt", "w.safetensors", "W.SAFETENSORS"])
def test_tensors_and_metadata_are_read(name, tmp_path):
    path = tmp_path / name
    if name.lower().endswith("safetensors"):
        save_file(some_tensors(), path, {"a": "b"})
    else:
        torch.save(some_tensors(), path)
    tensors, metadata = read_tensors(path)
    assert_close(tensors, some_tensors(), rtol=0, atol=0)
    assert metadata == ({"a": "b"} if name.lower().endswith("safetensors") else {})


def test_the_trap_of_the_next_test_is_armed(tmp_path):
    save_pickle({"a": MakesAFolder(tmp_path / "trap")}, tmp_path / "w.pth")
    pickle.loads((tmp_path / "w.pth").read_bytes())  # what careless readers do
    assert (tmp_path / "trap").is_dir()


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_pickle])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
def test_code_in_a_file_is_refused_and_never_run(save, name, tmp_path):
    save(some_tensors() | {"a": MakesAFolder(tmp_path / "trap")}, tmp_path / name)
    with pytest.raises(ValueError, match=f"^{name} (must contain plain tensors|cannot be read)"):
        read_tensors(tmp_path / name)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "name, save", [("w.pth", save_zip), ("w.pth", save_legacy), ("w.safetensors", save_file)]
)
def test_a_file_cut_short_anywhere_is_refused(name, save, tmp_path):
    path = tmp_path / name
    save(some_tensors(), path)
    whole = path.read_bytes()
    for length in sorted({*range(0, len(whole), 41), 1, 7, 8, 9, len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{name} (cannot be read .*incomplete|must contain)"):
            read_tensors(path)


def test_an_archive_whose_download_stopped_is_refused(tmp_path):
    # once "[Errno 22] Invalid argument" and no name, wherever it stopped behind the first 4 KB
    path = tmp_path / "w.pth"
    torch.save({f"blocks.{n}.weight": torch.randn(30, 40) for n in range(4)}, path)
    whole = path.read_bytes()
    for length in range(100, len(whole), 997):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^w.pth cannot be read .*\({length} bytes\)"):
            read_tensors(path)


def test_a_disk_that_fails_and_memory_that_runs_out_name_the_file(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(some_tensors(), path)

    def failing(error):
        def load(path):
            raise error

        return load

    with pytest.raises(OSError, match=r"^w\.pth cannot be read: .*Input/output error"):
        read_tensors(path, failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(MemoryError, match=r"^w\.pth \(\d+ bytes\) asks for more memory"):
        read_tensors(path, failing(MemoryError()))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "name, save", [("w.pth", save_zip), ("w.pth", save_legacy), ("w.safetensors", save_file)]
)
def test_a_file_with_flipped_bytes_is_refused_or_read(name, save, tmp_path):
    # once IndexError, struct.error, KeyError, TypeError or AssertionError from torch's reader
    path = tmp_path / name
    save(some_tensors(), path)
    whole, rng = path.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except ValueError as error:
            assert str(error).startswith(name)
            refused += 1
    assert refused > 0


SENTENCES = {
    "an empty .pth": ("w.pth", b"", r"cannot be read as weights: .* \(0 bytes\); download it"),
    "an empty .safetensors": ("w.safetensors", b"", r"cannot be read .* \(0 bytes\); download"),
    "a page": (
        "w.safetensors",
        b"<!doctype html><p>not found",
        "cannot be read as weights: .*incomplete",
    ),
    "a page as .pth": (
        "w.pth",
        b"<!doctype html><p>not found",
        "must contain plain tensors.*nothing",
    ),
}


@pytest.mark.parametrize("what", SENTENCES)
def test_what_is_no_weight_file_is_refused(what, tmp_path):
    name, content, sentence = SENTENCES[what]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{name} {sentence}"):
        read_tensors(tmp_path / name)


def test_what_is_no_file_is_refused_by_its_path(tmp_path):
    for path in (tmp_path, tmp_path / "none.pth"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*; check the name"):
            read_tensors(path)


CONTENTS = {
    "a list": ([torch.zeros(1)], "must contain named tensors, but has none"),
    "nothing": ({}, "must contain named tensors, but has none"),
    "a number": ({"a": torch.zeros(1), "step": 3}, "only named tensors, but 1 entries.* 'step'"),
    "a state": ({"state_dict": some_tensors()}, "only named tensors, but 1 entries.* 'state_dict'"),
    "no names": (
        {0: torch.zeros(1)},
        "only named tensors, but 1 entries are not tensors, first 0;",
    ),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_anything_but_named_tensors_is_refused(what, tmp_path):
    content, sentence = CONTENTS[what]
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"^w.pth .*{sentence}"):
        read_tensors(tmp_path / "w.pth")


def test_a_readers_own_trouble_is_not_called_damage(tmp_path):
    (tmp_path / "w.pth").touch()

    def load(path):
        raise PermissionError("the drive is locked")

    with pytest.raises(OSError, match=r"^w\.pth cannot be read: the drive is locked; check"):
        read_tensors(tmp_path / "w.pth", load)


def test_a_download_that_ended_early_is_called_incomplete(tmp_path):
    save_zip({f"layer.{n}.weight": torch.zeros(10) for n in range(300)}, tmp_path / "w.pth")
    whole = (tmp_path / "w.pth").read_bytes()
    for size in range(20, len(whole), len(whole) // 25):
        (tmp_path / "w.pth").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"^w.pth cannot be read .* incomplete or damaged"):
            read_tensors(tmp_path / "w.pth")


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    tensors = {"across": torch.arange(12.0).reshape(3, 4).T, "half": torch.ones(2).half()}
    write_tensors(path, tensors, {"a": "b"})
    held, metadata = load_plain(str(path))
    assert_close(held, tensors, rtol=0, atol=0)
    assert metadata == {"a": "b"}
    write_tensors(path, {"one": torch.ones(1)}, {})  # replaces
    assert load_plain(str(path))[0].keys() == {"one"}
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, some_tensors(), {})
    before = path.read_bytes()
    one = torch.ones(2)
    with pytest.raises(RuntimeError, match="share memory"):
        write_tensors(path, {"a": one, "b": one}, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_write_that_fails_at_the_last_moment_leaves_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    (path / "inside").mkdir(parents=True)  # a folder of this name cannot be replaced by a file
    with pytest.raises(OSError):
        write_tensors(path, some_tensors(), {})
    assert os.listdir(tmp_path) == ["w.safetensors"]
    assert os.listdir(path) == ["inside"]


def test_a_target_that_cannot_be_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"must be a \.safetensors file, got 'w.pth'"):
        write_tensors(tmp_path / "w.pth", some_tensors(), {})
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*none'; create it first"):
        write_tensors(tmp_path / "none" / "w.safetensors", some_tensors(), {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_written_file_has_the_mode_that_umask_gives(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "w.safetensors", {"one": torch.ones(1)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == mode
