"""Many shards: indexed once, mapped into memory, read at any place, by any number of processes."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from hypir.train.feed import Feed
from hypir.train.shard_index import ENTRY, index_of
from hypir.train.shards import ShardSource
from hypir.train.sources import open_source

SHARDS, PICTURES = 200, 6


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """200 shards of six flat pictures each, every other one with a caption."""
    folder = tmp_path_factory.mktemp("shards")
    contents = []
    for level in range(PICTURES):
        file = io.BytesIO()
        Image.new("RGB", (40, 40), (level,) * 3).save(file, "PNG")
        contents.append(file.getvalue())
    for number in range(SHARDS):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as archive:
            for level, content in enumerate(contents):
                members = [(f"{level:03d}.png", content)]
                if level % 2:
                    members.append((f"{level:03d}.txt", f"{number} {level}".encode()))
                for name, data in members:
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    return folder


def test_every_picture_of_many_shards_is_found_with_its_caption(many):
    source, _ = open_source(str(many), 32, 0)
    assert len(source) == SHARDS * PICTURES
    for index in (0, 5, 6, 777, len(source) - 1):
        number, level = divmod(index, PICTURES)
        picture, caption = source.read(index)
        assert (picture == level).all()
        assert caption == (f"{number} {level}" if level % 2 else "")
        assert source.label(index) == f"{many}/{number:04d}.tar:{level:03d}.png"


def test_a_source_is_sent_to_other_processes_without_its_indices(many):
    source, _ = open_source(str(many), 32, 0)
    sent = pickle.dumps(source)
    assert len(sent) < 40 * SHARDS + 20_000
    assert pickle.loads(sent).read(777)[1] == source.read(777)[1]


def test_headers_are_read_once_and_again_for_a_shard_that_changes(many, tmp_path):
    open_source(str(many), 32, 0)
    kept = {file: file.stat().st_mtime_ns for file in many.glob(".*.index.npy")}
    assert len(kept) == SHARDS
    open_source(str(many), 32, 0)
    assert {file: file.stat().st_mtime_ns for file in many.glob(".*.index.npy")} == kept
    shard = tmp_path / "a.tar"
    shard.write_bytes((many / "0000.tar").read_bytes())
    assert len(index_of(shard)) == PICTURES
    with tarfile.open(shard, "a") as archive:
        archive.add(many / "0001.tar", "not a picture.txt")
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        entry = tarfile.TarInfo("more.png")
        entry.size = len(picture.getvalue())
        archive.addfile(entry, io.BytesIO(picture.getvalue()))
    assert len(index_of(shard)) == PICTURES + 1
    assert len(list(tmp_path.glob(".a.tar.*.index.npy"))) == 1


def test_a_feed_of_shards_goes_on_where_it_stopped(make_recipe, many):
    recipe = make_recipe(data=(str(many),), crop=32, pool=4)
    whole = Feed(recipe, torch.device("cpu"))
    batches = [whole.next() for _ in range(6)]
    resumed = Feed(recipe, torch.device("cpu"), 3)
    for expected in batches[3:]:
        found = resumed.next()
        assert found.numbers == expected.numbers and found.captions == expected.captions
        assert torch.equal(found.degraded, expected.degraded)


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    # an index of a hundred thousand pictures, as a first start leaves it beside the shard
    shard = tmp_path / "big.tar"
    shard.write_bytes(b"\0" * 1024)
    state = os.stat(shard)
    name = f".big.tar.{state.st_size:x}-{state.st_mtime_ns:x}.index.npy"
    np.save(tmp_path / name, np.ones(100_000, ENTRY))
    tracemalloc.start()
    source = ShardSource([shard], "big")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(source) == 100_000
    assert used < 200_000  # two bytes a picture; a list of them takes 466
