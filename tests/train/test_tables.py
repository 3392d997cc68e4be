"""Tables, captions and shards as Excel, Windows, the hub and tar leave them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from hypir.train.shards import expand_braces
from hypir.train.sources import open_source
from hypir.train.texts import decode_text


def picture(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), level, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder with x.png, y.png and z.png, whose grey levels are 0, 1 and 2."""
    for level, name in enumerate("xyz"):
        (tmp_path / f"{name}.png").write_bytes(picture(level))
    return tmp_path


def content(path) -> list[tuple[int, str]]:
    """Grey level and caption of everything that a source gives."""
    source, _ = open_source(str(path), 32, 0)
    read = (source.read(i) for i in range(len(source)))
    return [(int(levels[0, 0, 0]), caption) for levels, caption in read]


# ------------------------------------------------------------------------------------------- texts

WORDS = "a caf\u00e9, na\u00efve \u2014 \u20ac5"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_a_caption_is_the_same_in_every_encoding(home, encoding):
    (home / "x.txt").write_bytes(WORDS.encode(encoding))
    assert content(home / "x.png") == [(0, WORDS)]
    (home / "t.csv").write_bytes(f'image,caption\nx.png,"{WORDS}"\n'.encode(encoding))
    assert content(home / "t.csv") == [(0, WORDS)]
    row = json.dumps({"image": "x.png", "caption": WORDS}, ensure_ascii=False)
    (home / "t.jsonl").write_bytes(row.encode(encoding))
    assert content(home / "t.jsonl") == [(0, WORDS)]


def test_bytes_that_windows_does_not_know_are_latin_1():
    assert decode_text(b"caf\xe9 \x81", "a.txt") == "caf\xe9 \x81"


@pytest.mark.parametrize("encoding", ["gbk", "cp1251", "shift-jis"])
def test_other_encodings_are_refused_by_name_and_not_guessed(home, encoding):
    words = {
        "gbk": "\u4e00\u53ea\u9ed1\u732b",
        "cp1251": "\u0447\u0451\u0440\u043d\u044b\u0439 \u043a\u043e\u0442",
        "shift-jis": "\u9ed2\u3044\u732b\u3067\u3059",
    }[encoding]
    (home / "x.txt").write_bytes(words.encode(encoding))
    with pytest.raises(ValueError, match=r"x\.txt is neither UTF-8 nor .* save it as UTF-8"):
        content(home / "x.png")


def test_half_a_text_and_bytes_that_are_none_are_refused_by_name():
    with pytest.raises(ValueError, match=r"a\.txt is cut off or no text in utf-16"):
        decode_text("word".encode("utf-16")[:-1], "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt is no text"):
        decode_text(b"abcdefgh\0", "a.txt")


# ------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize(
    "text",
    [
        "image,caption\nx.png,one\ny.png,two\n",
        "image;caption\nx.png;one\ny.png;two\n",
        "image\tcaption\nx.png\tone\ny.png\ttwo\n",
        "sep=;\nimage;caption\nx.png;one\ny.png;two\n",
        "\nIMAGE, Caption \r\nx.png,one\r\n\r\ny.png,two\r\n",
        '"image","caption"\n"x.png","one"\n"y.png","two"\n',
        "caption,image,other\none,x.png,1\ntwo,y.png\n",
    ],
    ids=["commas", "semicolons", "tabs", "sep=", "blank lines", "quotes", "short row"],
)
def test_a_csv_is_read_as_programs_write_it(home, text):
    for name in ("t.csv", "t.tsv", "T.CSV"):
        (home / name).write_text(text, newline="")
        assert content(home / name) == [(0, "one"), (1, "two")]


def test_captions_may_lack_in_any_row_the_first_too(home):
    (home / "t.csv").write_text("image,caption\nx.png\ny.png,two\nz.png,\n")
    rows = [{"image": "x.png"}, {"image": "y.png", "text": "two"}, {"image": "z.png", "text": None}]
    (home / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = {"image": ["x.png", "y.png", "z.png"], "caption": [None, "two", float("nan")]}
    parquet.write_table(
        pyarrow.table({"image": table["image"], "caption": [None, "two", None]}), home / "t.parquet"
    )
    for name in ("t.csv", "t.jsonl", "t.parquet"):
        assert content(home / name) == [(0, ""), (1, "two"), (2, "")]


def test_of_several_captions_the_first_is_taken_and_an_empty_cell_of_pandas_is_none(home):
    (home / "t.jsonl").write_text(
        '{"image": "x.png", "caption": ["one", "other"]}\n{"image": "y.png", "caption": NaN}\n'
        '{"image": "z.png", "caption": []}\n'
    )
    assert content(home / "t.jsonl") == [(0, "one"), (1, ""), (2, "")]


BAD = {
    "t.jsonl": ('{"image": "x.png"}\n{"image": \n["y.png"]\n{"caption": "two"}\n', 3, "line 2"),
    "t.csv": ("image,caption\nx.png,one\ny.png,a house, red\n,two\n", 2, "line 3"),
    "t.tsv": ("image\tcaption\nx.png\tone\n\tno picture\n", 1, "line 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named_with_file_and_line_counted_and_left_out(home, caplog, name):
    text, count, place = BAD[name]
    (home / name).write_text(text)
    assert [level for level, _ in content(home / name)] == [0]
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"{name}: {count} of {count + 1} rows are left out, first {place}: " in told


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "must have a column of picture paths .* found no rows"),
        ("t.csv", "image,caption\n", "found no rows"),
        ("t.csv", "a,b\n1,2\n", "found a, b"),
        ("t.csv", "image,caption\nx.png,one\n,two", ""),
        ("t.csv", 'image,caption\nx.png,"one\ny.png,two\n', r"t\.csv, line 3: unexpected end"),
        ("t.csv", 'image,caption\nx.png,"a" b\n', r"t\.csv, line 2: .* written twice"),
        ("t.jsonl", "Dear all", r"t\.jsonl must have .* line 1: no JSON"),
        ("t.jsonl", '{"image": 3}', r"t\.jsonl has no row .* line 1: no picture is named"),
        ("t.parquet", "PAR1 and no more", r"t\.parquet is cut off, damaged or no parquet file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_name(home, name, text, message):
    (home / name).write_text(text)
    if not message:
        assert content(home / name) == [(0, "one")]
        return
    with pytest.raises(ValueError, match=message) as error:
        content(home / name)
    assert str(home / name) in str(error.value) and len(str(error.value)) < 500


def test_paths_written_on_windows_are_found(home):
    (home / "sub").mkdir()
    (home / "sub" / "a.png").write_bytes(picture(5))
    (home / "t.csv").write_text("file_name\nsub\\a.png\n")
    assert content(home / "t.csv") == [(5, "")]


def hub_rows(levels) -> list[dict]:
    """As the hub's parquet files have pictures."""
    return [
        {"image": {"bytes": picture(n), "path": f"{n}.png"}, "text": f"level {n}"} for n in levels
    ]


def test_pictures_inside_parquet_files_are_read_from_one_file_or_a_folder(home, tmp_path):
    rows = hub_rows(range(5))
    rows[3]["image"] = {"bytes": None, "path": "y.png"}
    parquet.write_table(pyarrow.Table.from_pylist(rows), home / "t.parquet", row_group_size=2)
    expected = [(0, "level 0"), (1, "level 1"), (2, "level 2"), (1, "level 3"), (4, "level 4")]
    assert content(home / "t.parquet") == expected
    data = tmp_path / "data"
    data.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(hub_rows([7])), data / "train-0.parquet")
    plain = pyarrow.table({"image": [picture(8)], "text": ["level 8"]})
    parquet.write_table(plain, data / "train-1.parquet")
    assert content(data) == [(7, "level 7"), (8, "level 8")]


def test_a_broken_picture_inside_a_parquet_file_is_named_without_its_bytes(home):
    rows = hub_rows([0, 1])
    rows[1]["image"]["bytes"] = b"no picture" * 100
    parquet.write_table(pyarrow.Table.from_pylist(rows), home / "t.parquet")
    source, _ = open_source(str(home / "t.parquet"), 32, 0)
    with pytest.raises(ValueError, match=r"t\.parquet:group 0, row 1 \(1\.png\) must") as error:
        source.read(1)
    assert len(str(error.value)) < 300


# ------------------------------------------------------------------------------------------ shards


def write_shard(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file


def members(levels) -> dict[str, bytes]:
    pairs = ((f"{n:03d}.png", picture(n)) for n in levels)
    return {k: v for name, data in pairs for k, v in ((name, data), (f"{name[:3]}.txt", b"word"))}


def test_a_shard_that_is_cut_gives_its_whole_pictures_and_is_named(tmp_path, caplog):
    shard = write_shard(tmp_path / "a.tar", members(range(4)))
    whole = shard.read_bytes()
    seen = set()
    for length in range(512, len(whole), 509):
        shard.write_bytes(whole[:length])
        caplog.clear()
        try:
            levels = [level for level, _ in content(shard)]
        except ValueError as error:
            assert "a.tar" in str(error)
            continue
        assert levels == list(range(len(levels)))
        seen.add(len(levels))
        if length < len(whole) - 10240:  # tarfile fills the last 10 KiB with zeros
            assert "a.tar is cut off or damaged" in caplog.text
    assert seen == {1, 2, 3, 4}


def test_a_caption_that_is_cut_is_no_caption(tmp_path):
    caption = "word " * 400
    shard = write_shard(tmp_path / "a.tar", {"1.png": picture(1), "1.txt": caption.encode()})
    whole = shard.read_bytes()
    start = whole.index(b"word ")
    for length in range(start + 1, start + 1900, 300):
        shard.write_bytes(whole[:length])
        assert [text for _, text in content(shard)] == [""]
    shard.write_bytes(whole)
    assert [text.split() for _, text in content(shard)] == [caption.split()]


def test_damage_inside_a_shard_ends_it_there(tmp_path, caplog):
    shard = write_shard(tmp_path / "a.tar", members(range(3)))
    data = bytearray(shard.read_bytes())
    place = data.index(b"002.png")
    data[place : place + 512] = b"\xff" * 512
    shard.write_bytes(data)
    assert [level for level, _ in content(shard)] == [0, 1]
    assert "a.tar is cut off or damaged" in caplog.text


def test_shards_that_give_nothing_are_named_and_left_out(tmp_path, caplog):
    write_shard(tmp_path / "good.tar", members([3]))
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "text.tar").write_bytes(b"Dear all" * 200)
    write_shard(tmp_path / "none.tar", {})
    (tmp_path / "packed.tar.gz").write_bytes(gzip.compress((tmp_path / "good.tar").read_bytes()))
    (tmp_path / "._good.tar").write_bytes(b"\0\5\x16\7")
    assert content(tmp_path) == [(3, "word")]
    assert "4 of 5 shards are left out, first " in caplog.text and "empty.tar" in caplog.text
    (tmp_path / "misnamed.tar").write_bytes((tmp_path / "packed.tar.gz").read_bytes())
    for name, why in {
        "empty.tar": "is empty",
        "none.tar": "no picture in it",
        "text.tar": "text.tar: ",
        "packed.tar.gz": "compressed .gzip. and cannot be read in place; unpack it",
        "misnamed.tar": "compressed .gzip.",
    }.items():
        with pytest.raises(ValueError, match=rf"there is no picture .*{why}") as error:
            content(tmp_path / name)
        assert name in str(error.value)


def test_a_key_ends_at_the_first_dot_and_resource_forks_are_no_pictures(tmp_path):
    shard = write_shard(
        tmp_path / "a.tar",
        {
            "1.png": picture(1),
            "1.mask.png": picture(99),
            "1.json": b'{"caption": "one"}',
            "._1.png": b"\0\5\x16\7",
            "__MACOSX/._1.png": b"\0\5\x16\7",
            "img.001.png": picture(2),
            "img.001.txt": "caf\u00e9".encode("cp1252"),
            "img.002.png": picture(3),
            "sub/1.png": picture(4),
        },
    )
    assert content(shard) == [(1, "one"), (2, "caf\u00e9"), (3, ""), (4, "")]


def test_a_caption_of_a_shard_that_is_no_json_is_named(tmp_path):
    shard = write_shard(tmp_path / "a.tar", {"1.png": picture(), "1.json": b"{"})
    with pytest.raises(ValueError, match=r"a\.tar:1\.json is no JSON"):
        content(shard)


def test_braces_and_wildcards_name_shards(tmp_path):
    for n in (8, 9, 10):
        write_shard(tmp_path / f"{n:03d}.tar", members([n]))
    for pattern in ("{008..010}.tar", "0{08,09,10}.tar", "0*.tar"):
        assert [level for level, _ in content(tmp_path / pattern)] == [8, 9, 10]
    source, weight = open_source(str(tmp_path / "{008..009}.tar") + ":3", 32, 0)
    assert len(source) == 2 and weight == 3
    with pytest.raises(FileNotFoundError, match=r"2 of the 5 shards .* first '.*006\.tar'"):
        content(tmp_path / "{006..010}.tar")
    with pytest.raises(FileNotFoundError, match="there is no data at"):
        content(tmp_path / "9*.tar")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a", ["a"]),
        ("{9..11}", ["9", "10", "11"]),
        ("{01..00}", ["01", "00"]),
        ("{a,b}{0..1}", ["a0", "a1", "b0", "b1"]),
        ("{a}x{}", ["{a}x{}"]),
    ],
)
def test_braces_expand_as_in_a_shell(pattern, names):
    assert expand_braces(pattern) == names


def test_what_is_no_data_says_what_would_be(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"notes\.docx' is no file of pictures \(.*\.tar shards"):
        content(tmp_path / "notes.docx")
    with pytest.raises(ValueError, match="a data source must name a path, got ''"):
        content("")
