"""Which workflows are recipes, and what options change in them."""

from __future__ import annotations

import json

import pytest

from hypir.archive.workflow import (
    Recipe,
    build_prompt,
    find_weights,
    for_photo,
    read_setting,
    read_workflow,
)

API = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {
        "class_type": "ImageScaleBy",
        "inputs": {"image": ["1", 0], "upscale_method": "area", "scale_by": 2.0},
        "_meta": {"title": "Twice as large"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def recipe(graph=API, *settings) -> Recipe:
    return Recipe(graph, settings, {})


def test_what_the_picture_does_not_depend_on_is_left_out():
    assert set(build_prompt(recipe(), {})) == {"1", "2", "3"}


@pytest.mark.parametrize("node", ["Twice as large", "ImageScaleBy", "2"])
def test_a_setting_names_its_node_by_title_class_or_number(node):
    prompt = build_prompt(recipe(API, (node, "scale_by", 3)), {})
    assert prompt["2"]["inputs"]["scale_by"] == 3
    assert API["2"]["inputs"]["scale_by"] == 2.0


def test_a_setting_of_what_is_not_there_lists_what_is():
    with pytest.raises(ValueError, match="'Thrice' is none; it has 1, 3, Twice as large"):
        build_prompt(recipe(API, ("Thrice", "scale_by", 3)), {})
    with pytest.raises(ValueError, match="no input 'scale'; it has image, scale_by"):
        build_prompt(recipe(API, ("2", "scale", 3)), {})


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({k: API[k] for k in "124"}, "must have one Save Image.* none is there"),
        ({"3": API["3"]}, "must have one Load Image.* none is there"),
        (API | {"5": API["3"]}, "must have one Save Image.* 2 is there"),
    ],
)
def test_a_workflow_is_one_photo_in_and_one_picture_out(graph, message):
    with pytest.raises(ValueError, match=message):
        build_prompt(recipe(graph), {})


def test_a_deep_photo_is_saved_by_the_node_that_can():
    prompt = for_photo(build_prompt(recipe(), {}), "a.png", "p", deep=True)
    assert prompt["1"]["inputs"]["image"] == "a.png"
    assert prompt["3"]["class_type"] == "SaveImageAdvanced"
    assert prompt["3"]["inputs"]["format.bit_depth"] == "16-bit"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("HYPIR Restore.timestep=150", ("HYPIR Restore", "timestep", 150)),
        ("7.texture.richness=0.6", ("7", "texture.richness", 0.6)),
        ("CLIP Text Encode.text=a = b.", ("CLIP Text Encode", "text", "a = b.")),
    ],
)
def test_settings_are_read_as_they_are_meant(text, parts):
    assert read_setting(text) == parts


def test_a_setting_without_its_parts_shows_one_that_has_them():
    with pytest.raises(ValueError, match=r"for example .HYPIR Restore\.timestep=150"):
        read_setting("timestep=150")


def test_the_recipe_changes_with_all_that_changes_results_and_with_nothing_else():
    page = {"nodes": [{"id": 1, "type": "LoadImage", "pos": [0, 0]}], "links": []}
    moved = {"nodes": [{"id": 1, "type": "LoadImage", "pos": [9, 9]}], "links": [], "extra": {}}
    weights = {"a.safetensors": "00"}
    same = recipe(page).digest(weights, "keep")
    assert recipe(moved).digest(weights, "keep") == same
    assert recipe(page, ("1", "image", "b")).digest(weights, "keep") != same
    assert recipe(page).digest({"a.safetensors": "01"}, "keep") != same
    assert recipe(page).digest(weights, "png") != same


def test_weight_files_are_found_where_the_host_has_them(tmp_path):
    names = Recipe({"1": {"class_type": "X", "inputs": {"lora": "sub/a.safetensors"}}}, (), {})
    file = tmp_path / "models" / "loras" / "sub" / "a.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    found = find_weights(sorted(names.names_of_weights()), [tmp_path / "models"])
    assert found == {"sub/a.safetensors": file}


@pytest.mark.parametrize("content", ["no json", "[]", "{}", json.dumps({"nodes": [{"id": 1}]})])
def test_a_file_that_is_no_workflow_is_refused_with_its_name(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ValueError, match=r"other\.json"):
        read_workflow(tmp_path / "other.json")
