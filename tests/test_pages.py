"""What a user reads: README, help pages and translations, without a host."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HELP = ROOT / "web" / "docs"
SCHEMAS = json.loads((ROOT / "tests" / "data" / "node_schemas.json").read_text(encoding="utf-8"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(HELP.rglob("*.md")),
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CHINESE = re.compile("[\u4e00-\u9fff]")
EXTERNAL = ROOT / ".nox" / "external_links.txt"


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def links(file: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    return LINK.findall(text)


def is_local(link: str) -> bool:
    return not link.startswith(("http://", "https://", "#", "mailto:"))


@pytest.mark.parametrize("file", PAGES, ids=name)
def test_every_local_link_leads_somewhere(file):
    # the host's page resolves a help page's links from web/docs, whatever the page's own folder
    base = HELP if HELP in file.parents else file.parent
    for link in filter(is_local, links(file)):
        assert (base / link.partition("#")[0]).exists(), link


def test_every_file_that_the_map_of_the_house_names_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.]+/)*(?:[\w.]+/|[\w.]+\.py))`", text.partition("## The house")[2])
    assert len(named) > 40
    for path in named:
        assert (ROOT / path).exists(), path


def test_links_to_other_places_are_listed():
    found = {link for file in PAGES for link in links(file) if link.startswith("http")}
    for file in (ROOT / "workflows").glob("*.json"):
        for node in json.loads(file.read_text(encoding="utf-8"))["nodes"]:
            found |= {model["url"] for model in node["properties"].get("models", [])}
    EXTERNAL.parent.mkdir(exist_ok=True)
    EXTERNAL.write_text("".join(f"{link}\n" for link in sorted(found)), encoding="utf-8")
    assert all(link.startswith("https://") for link in found)


def inputs_of(schema: dict) -> dict[str, dict]:
    """Every input of a node with its options; those of a drop-down's choices too."""
    found = {}
    for key, options in schema["inputs"].items():
        found[key] = options
        for choice in options.get("options", []):
            if isinstance(choice, dict):
                inside = choice["inputs"]
                for group in ("required", "optional"):
                    for short, (_, more) in inside.get(group, {}).items():
                        found[f"{key}.{short}"] = more
    return found


@pytest.mark.parametrize("node", SCHEMAS)
def test_every_node_has_help_in_both_languages_that_names_every_input(node):
    for file in (HELP / f"{node}.md", HELP / node / "zh.md"):
        text = file.read_text(encoding="utf-8")
        for key in inputs_of(SCHEMAS[node]):
            assert f"`{key}`" in text, f"{name(file)} lacks {key}"
        assert text.count("\n## ") == 3
        assert f"({node}/node.png)" in text
    assert CHINESE.search(text)
    assert (HELP / node / "node.png").read_bytes().startswith(b"\x89PNG")


def translation(language: str) -> dict:
    file = ROOT / "locales" / language / "nodeDefs.json"
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_english_names_are_those_of_the_schemas():
    english = translation("en")
    assert set(english) == set(SCHEMAS)
    for node, schema in SCHEMAS.items():
        assert english[node]["display_name"] == schema["display_name"]
        assert english[node]["description"] == schema["description"]
        tooltips = {key: text["tooltip"] for key, text in english[node]["inputs"].items()}
        # the page writes _ for the dot of a drop-down's fields
        expected = {k.replace(".", "_"): o["tooltip"] for k, o in inputs_of(schema).items()}
        assert tooltips == expected
        assert len(english[node]["outputs"]) == len(schema["outputs"])


def test_the_chinese_names_cover_all_of_the_english_ones():
    english, chinese = translation("en"), translation("zh")
    assert set(english) == set(chinese)
    for node in english:
        assert CHINESE.search(chinese[node]["display_name"])
        assert CHINESE.search(chinese[node]["description"])
        for part in ("inputs", "outputs"):
            assert set(english[node][part]) == set(chinese[node][part])
            for key, text in chinese[node][part].items():
                assert set(text) == set(english[node][part][key])
                assert CHINESE.search(text.get("tooltip", "\u4e00")), f"{node}.{key}"


def test_the_chinese_readme_follows_the_english_one():
    english, chinese = (ROOT / name for name in ("README.md", "README.zh.md"))
    shapes = []
    for file in (english, chinese):
        text = file.read_text(encoding="utf-8")
        code = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        local = sorted(link for link in links(file) if is_local(link))
        shapes.append((len(re.findall(r"^## ", text, flags=re.MULTILINE)), len(code), local))
    (heads, codes, local), (heads_zh, codes_zh, local_zh) = shapes
    assert (heads, codes) == (heads_zh, codes_zh)
    assert [x for x in local if "zh" not in x] == [x for x in local_zh if x != "README.md"]
