"""Every template on the page: whole, without an error, and as the page itself would save it."""

from __future__ import annotations

import json

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api

from tools import WORKFLOWS
from tools.first_picture import find_template

START = "START_here"
TEMPLATES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))


@pytest.fixture(scope="module")
def known(server) -> dict:
    return server.object_info()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_page_opens_the_template_whole(page, keep, known, name):
    page.load(name)
    page.fit()
    page.page.wait_for_function("app.graph.nodes.every(n => n.type !== 'LoadImage' || n.imgs)")
    keep(name)
    assert page.nodes_without_a_class() == []
    assert page.errors == []
    saved = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    now = {node["id"]: node for node in page.saved()["nodes"]}
    for node in saved["nodes"]:
        assert values_of(now[node["id"]], node) == values_of(node, now[node["id"]]), node["type"]
        assert len(now[node["id"]].get("inputs", [])) >= len(node["inputs"])
    ours, theirs = (inputs_of(p) for p in (convert_ui_to_api(saved, known), page.prompt()))
    assert ours == theirs


def values_of(node: dict, other: dict) -> dict | list:
    """The values, by name where both save them so; of those by name, what both have."""
    named, names = (n.get("widgets_values_named") for n in (node, other))
    if named is None or names is None:
        return node.get("widgets_values", [])
    return {name: named[name] for name in named.keys() & names.keys() - {"upload"}}


def inputs_of(prompt: dict) -> dict[str, dict]:
    """Inputs by node, without the state of the comparing slider, which the page alone has."""
    return {
        i: {name: value for name, value in node["inputs"].items() if name != "compare_view"}
        for i, node in prompt.items()
    }


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != START])
def test_missing_files_are_offered_by_the_hosts_own_list(page, name):
    page.load(name)
    page.page.get_by_test_id("error-overlay-see-errors").click()
    graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    models = [m for node in graph["nodes"] for m in node["properties"].get("models", [])]
    panel = page.page.locator("body")
    for model in models:
        panel.get_by_text(model["name"], exact=True).first.wait_for()
    page.page.wait_for_function(f"{DOWNLOADS} === {len(models)}")


# how many buttons offer a file; beside them there is one for all together
DOWNLOADS = (
    "[...document.querySelectorAll('button')]"
    ".filter(button => button.innerText.trim() === 'Download').length"
)


def test_start_here_is_found_with_the_mouse(page, keep):
    find_template(page, keep)
    assert page.node("HYPIRRestore") and page.nodes_without_a_class() == []
    assert page.errors == []


def test_start_here_has_nothing_red_and_runs_as_it_comes(page, keep, pixels):
    page.load(START)
    page.fit()
    page.page.wait_for_function("app.graph.nodes.every(n => n.type !== 'LoadImage' || n.imgs)")
    assert page.page.get_by_test_id("error-overlay").count() == 0
    assert page.page.evaluate("app.graph.nodes.filter(n => n.has_errors).length") == 0
    page.set(page.node("ImageScaleBy"), "scale_by", 0.25)  # of a large example
    result = pixels(page.run())
    page.page.wait_for_function("app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.length")
    keep(f"{START}_done")
    assert result.shape == (192, 192, 3)
    assert page.errors == []


def test_a_template_with_its_files_there_has_nothing_red(page, filled_in, keep):
    page.load(filled_in("restore_photo"))
    page.fit()
    page.page.wait_for_function("app.graph.nodes.every(n => n.type !== 'LoadImage' || n.imgs)")
    keep("restore_photo_with_files")
    assert page.page.get_by_test_id("error-overlay").count() == 0
    assert page.page.evaluate("app.graph.nodes.filter(n => n.has_errors).length") == 0
