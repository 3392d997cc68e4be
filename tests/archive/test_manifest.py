"""Nothing lost, nothing twice: what a run takes for done."""

from __future__ import annotations

import hashlib

import pytest

from hypir.archive.manifest import Manifest, Result


@pytest.fixture
def manifest(tmp_path):
    manifest = Manifest(tmp_path / "target" / "manifest.sqlite")
    yield manifest
    manifest.close()


def listing(manifest, *photos, recipe="r", suffix=".jpg"):
    run = manifest.begin(recipe, 0.0)
    for name, size, mtime in photos:
        manifest.add(run, name, suffix, size, mtime, recipe)
    manifest.listed(run)
    return [task.source for task in manifest.tasks()]


def finish(manifest, recipe="r", error=""):
    for task in list(manifest.tasks()):
        manifest.finish(Result(task.id, "digest", 1.0, 2, 2, 10, error), recipe)


A, B = ("a.jpg", 100, 1.0), ("b.jpg", 200, 1.0)


def test_only_what_is_missing_or_changed_is_done_again(manifest):
    assert listing(manifest, A, B) == ["b.jpg", "a.jpg"]  # the largest first
    finish(manifest)
    assert listing(manifest, A, B) == []
    assert listing(manifest, ("a.jpg", 101, 1.0), B) == ["a.jpg"]
    finish(manifest)
    assert listing(manifest, ("a.jpg", 101, 1.0), B, ("c.jpg", 1, 1.0)) == ["c.jpg"]


def test_another_recipe_does_everything_again(manifest):
    listing(manifest, A, B)
    finish(manifest)
    assert listing(manifest, A, B, recipe="other") == ["b.jpg", "a.jpg"]
    assert {task.sha256 for task in manifest.tasks()} == {""}


def test_a_touched_photo_is_compared_by_its_content(manifest):
    listing(manifest, A)
    finish(manifest)
    assert listing(manifest, ("a.jpg", 100, 2.0)) == ["a.jpg"]
    (task,) = manifest.tasks()
    assert task.sha256 == "digest"
    manifest.unchanged(task.id)
    assert manifest.counts() == {"done": 1}
    assert listing(manifest, ("a.jpg", 100, 2.0)) == []


def test_a_failed_photo_is_tried_again_by_the_next_run(manifest):
    listing(manifest, A)
    finish(manifest, error="no picture")
    assert manifest.counts() == {"failed": 1}
    assert list(manifest.failures()) == [("a.jpg", "no picture")]
    assert listing(manifest, A) == ["a.jpg"]


def test_photos_that_left_the_source_are_gone_and_may_come_back(manifest):
    listing(manifest, A, B)
    finish(manifest)
    listing(manifest, A)
    assert manifest.counts() == {"done": 1, "gone": 1}
    assert listing(manifest, A, B) == ["b.jpg"]


def test_equal_names_never_share_a_result_and_keep_theirs_between_runs(manifest):
    photos = [("x/a.JPG", 1, 1.0), ("x/a.gif", 1, 1.0), ("x/a.png", 1, 1.0), ("y/a.png", 1, 1.0)]
    listing(manifest, *photos, suffix=".png")
    targets = {task.source: task.target for task in manifest.tasks()}
    assert len({target.lower() for target in targets.values()}) == 4
    assert targets["x/a.JPG"] == "x/a.png"
    assert targets["x/a.gif"] == "x/a.gif.png"
    assert targets["y/a.png"] == "y/a.png"
    listing(manifest, *reversed(photos), suffix=".png")
    assert {task.source: task.target for task in manifest.tasks()} == targets


def test_another_format_gives_another_name(manifest):
    listing(manifest, A)
    finish(manifest)
    listing(manifest, A, recipe="webp", suffix=".webp")
    (task,) = manifest.tasks()
    assert task.target == "a.webp"


def test_a_second_run_on_the_same_target_is_refused(manifest):
    with pytest.raises(ValueError, match="another archive is writing to the same target"):
        Manifest(manifest.file)


def test_a_file_that_is_no_manifest_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database " * 100)
    with pytest.raises(ValueError, match="must be a manifest"):
        Manifest(tmp_path / "notes.txt")


def test_weights_are_identified_by_their_content(manifest, tmp_path):
    file = tmp_path / "lora.safetensors"
    for content in (b"one", b"other"):
        file.write_bytes(content)
        assert manifest.sha256(file) == hashlib.sha256(content).hexdigest()
