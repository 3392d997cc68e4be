"""What a person does on the page, with the mouse: run, change, choose, cancel, read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.http.test_templates import write_video
from tools.host.frontend import RUN_SECONDS, opened
from tools.host.server import wait_until

HELP = Path(__file__).parents[2] / "web" / "docs"
BLUEPRINT = "HYPIR Restore Image"
ENCODE_AND_RESTORE = {"HYPIR \u7f16\u7801", "HYPIR \u4fee\u590d"}
RIGHT_ARROW = 0.99


def test_run_gives_the_picture_and_shows_it(page, filled_in, keep, pixels, server, photo):
    page.load(filled_in("restore_photo", scale=2.0))
    page.fit()
    result = pixels(page.run())
    assert result.shape == (128, 160, 3)
    small = result.reshape(64, 2, 80, 2, 3).mean((1, 3))
    before = pixels_of_input(server, photo)
    assert np.abs(small.mean((0, 1)) - before.mean((0, 1))).max() < 2
    assert np.abs(small - before).mean() < 20
    page.page.wait_for_function("app.graph.nodes.find(n => n.type === 'SaveImage').imgs?.length")
    keep("restore_photo_done")
    assert page.errors == []


def pixels_of_input(server, name: str) -> np.ndarray:
    return np.asarray(Image.open(server.base / "input" / name).convert("RGB")).astype(float)


# keeps what a node shows while it runs; pages from 1.49 on take it away at the end
WATCH = """() => {
    window.shown = []
    app.api.addEventListener('progress_text', ({ detail }) => {
        const node = app.graph.getNodeById(detail.nodeId)
        for (const widget of node?.widgets ?? []) window.shown.push(`${node.id}: ${widget.value}`)
    })
}"""


def test_while_they_run_the_nodes_name_their_stage_and_they_keep_their_widgets(page, filled_in):
    graph = filled_in("restore_photo")
    page.load(graph)
    page.fit()
    page.page.evaluate(WATCH)
    page.set(page.node("SaveImage"), "filename_prefix", "stages")
    page.set(page.node("ImageScaleBy"), "scale_by", 1.5)
    page.run()
    for kind, stage in (
        ("HYPIREncode", "encode 1/1"),
        ("HYPIRRestore", "restore 1/1"),
        ("HYPIRDecode", "match colours 100/100"),
    ):
        assert f"{page.node(kind)}: {stage}" in page.page.evaluate("window.shown"), kind
    now = {node["id"]: node for node in page.saved()["nodes"]}
    for node in graph["nodes"]:
        if node["type"].startswith("HYPIR"):
            assert len(now[node["id"]]["widgets_values"]) == len(node["widgets_values"])


def test_the_plan_shows_its_tiles_and_its_report(page, filled_in, keep):
    page.load(filled_in("restore_try_a_window", scale=2.0))
    page.fit()
    page.run()
    plan, report = page.node("HYPIRPlan"), page.node("PreviewAny")
    page.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.length === 3", arg=plan)
    page.page.wait_for_function(
        "id => app.graph.getNodeById(id).widgets.some(w => /TFLOP/.test(String(w.value)))",
        arg=report,
    )
    keep("restore_try_a_window_done")
    assert page.errors == []


def test_fidelity_typed_into_the_node_changes_the_result(page, filled_in, pixels):
    page.load(filled_in("restore_faithful"))
    page.fit()
    decode, results = page.node("HYPIRDecode"), []
    for fidelity in (0.0, 1.0):
        page.set(decode, "fidelity", fidelity)
        results.append(pixels(page.run()))
    assert np.abs(results[0] - results[1]).max() >= 1


def test_a_video_is_restored_and_shown(page, filled_in, server, tmp_path, keep):
    frames = np.full((5, 32, 48, 3), 120, np.uint8)
    name = server.upload_image(write_video(tmp_path / "clip.mp4", frames, rate=5))
    graph = filled_in("restore_video")
    for node in graph["nodes"]:
        if node["type"] == "LoadVideo":
            node["widgets_values"][0] = node["widgets_values_named"]["file"] = name
    page.load(graph)
    page.fit()
    page.page.evaluate(WATCH)
    entry = page.run()
    saved = [i for out in entry["outputs"].values() for i in out.get("images", [])]
    assert any(item["filename"].endswith(".mp4") for item in saved)
    node = page.node("HYPIRRestoreVideo")
    assert f"{node}: frame 5/5" in page.page.evaluate("window.shown")
    keep("restore_video_done")
    assert page.errors == []


def test_a_slider_moved_with_the_mouse_changes_the_result(page, filled_in, pixels):
    page.load(filled_in("restore_photo"))
    page.fit()
    lora = page.node("HYPIRLoadLora")
    first = pixels(page.run())
    page.click(lora, "strength", RIGHT_ARROW)
    assert page.value(lora, "strength") == pytest.approx(1.05)
    assert np.abs(pixels(page.run()) - first).max() >= 1


def test_the_texture_drop_down_shows_and_hides_its_fields(page, filled_in, keep):
    page.load(filled_in("restore_all_controls"))
    page.fit()
    node = page.node("HYPIRConditioning")
    fields = {
        "set": ({"texture.richness"}, set()),
        "match": ({"texture.offset"}, {"texture.image"}),
        "map": (set(), {"texture.mask"}),
        "off": (set(), set()),
    }
    for choice, (widgets, sockets) in fields.items():
        page.choose(node, "texture", choice)
        shown = page.page.evaluate(
            "id => { const n = app.graph.getNodeById(id); return ["
            "n.widgets.map(w => w.name), n.inputs.filter(i => !i.widget).map(i => i.name)] }",
            node,
        )
        found = [{name for name in part if name.startswith("texture.")} for part in shown]
        assert found == [widgets, sockets], choice
        keep(f"texture_{choice}")


def test_the_blueprint_is_one_node_that_runs(page, filled_in, keep, pixels, server):
    page.load(filled_in("restore_photo"))
    page.page.evaluate(ONE_NODE, page.add(BLUEPRINT))
    page.fit()
    keep("blueprint")
    assert page.errors == []
    classes = {node["class_type"] for node in page.prompt().values()}
    assert {"HYPIREncode", "HYPIRInjectNoise", "HYPIRRestore", "HYPIRDecode"} <= classes
    entry = page.run()
    assert entry["status"]["status_str"] == "success"
    assert pixels(entry).shape == (4 * 64, 4 * 80, 3)


# puts the blueprint in place of the nodes between the loaders and Save Image
ONE_NODE = """id => {
    const find = kind => app.graph.nodes.find(n => n.type === kind)
    const whole = app.graph.getNodeById(id)
    whole.pos = [900, 120]
    for (const kind of ["ImageScaleBy", "CLIPTextEncode", "HYPIREncode", "HYPIRRestore",
                        "HYPIRDecode", "ImageCompare"]) app.graph.remove(find(kind))
    const slot = name => whole.inputs.findIndex(i => i.name === name)
    find("LoadImage").connect(0, whole, slot("image"))
    find("HYPIRLoadLora").connect(0, whole, slot("model"))
    find("CheckpointLoaderSimple").connect(1, whole, slot("clip"))
    find("CheckpointLoaderSimple").connect(2, whole, slot("vae"))
    whole.connect(0, find("SaveImage"), 0)
}"""


def test_cancel_ends_a_long_run_and_the_host_is_ready_again(page, filled_in, server, pixels):
    graph = filled_in("restore_photo", scale=8.0)
    page.load(graph)
    page.fit()
    for name, value in (("tile_size", 128), ("overlap", 64), ("tile_batch", 1)):
        page.set(page.node("HYPIRRestore"), name, value)
    before = set(server.get("/history"))
    page.queue()
    # asked of the host: on two cores that it fills, the page may hear of the run when it is over
    wait_until(lambda: server.get("/queue")["queue_running"], RUN_SECONDS, "the run does not begin")
    page.cancel()
    wait_until(lambda: set(server.get("/history")) > before, 60, "the run goes on")
    (ended,) = (e for i, e in server.get("/history").items() if i not in before)
    assert ended["status"]["status_str"] == "error"
    assert "execution_interrupted" in [kind for kind, _ in ended["status"]["messages"]]
    page.load(filled_in("restore_photo", scale=0.5))
    assert pixels(page.run()).shape == (32, 40, 3)


def test_the_map_of_measure_texture_appears_on_the_node(page, filled_in, keep):
    page.load(filled_in("restore_all_controls"))
    page.fit()
    entry = page.run()
    assert entry["status"]["status_str"] == "success"
    node = page.node("HYPIRMeasureTexture")
    page.page.wait_for_function("id => app.graph.getNodeById(id).imgs?.length", arg=node)
    size = page.page.evaluate(
        "id => { const i = app.graph.getNodeById(id).imgs[0]; return [i.naturalWidth,"
        " i.naturalHeight] }",
        node,
    )
    assert size == [80, 64]
    keep("all_controls_done")


def test_the_slider_of_nodes_two_compares_before_and_after(chromium, server, filled_in, keep):
    with opened(chromium, server, VueNodes_Enabled=True) as page:
        page.load(filled_in("restore_photo"))
        page.fit()
        page.run()
        pictures = page.page.locator("[data-node-id] img[src*='comfy.compare']")
        pictures.first.wait_for()
        assert pictures.count() == 2
        keep("nodes_two", page)
        assert page.errors == []


def test_chinese_is_chinese(chromium, server, filled_in, keep):
    with opened(chromium, server, Locale="zh") as page:
        page.load(filled_in("restore_all_controls"))
        page.fit()
        titles = page.page.evaluate("app.graph.nodes.map(n => n.getTitle())")
        assert ENCODE_AND_RESTORE <= set(titles)
        keep("chinese", page)
        assert page.errors == []


def test_the_help_of_a_node_opens_in_chinese_with_its_picture(chromium, server, filled_in, keep):
    text = (HELP / "HYPIRDecode" / "zh.md").read_text(encoding="utf-8").splitlines()[2]
    with opened(chromium, server, Locale="zh") as page:
        page.load(filled_in("restore_photo"))
        page.fit()
        page.page.evaluate(
            "id => app.canvas.selectNode(app.graph.getNodeById(id))", page.node("HYPIRDecode")
        )
        page.page.get_by_test_id("info-button").click()
        page.page.get_by_text(text[:16]).wait_for()
        page.page.wait_for_function(
            "[...document.images].some(i => i.src.includes('node.png') && i.naturalWidth > 100)"
        )
        keep("help_chinese", page)
        assert page.errors == []
