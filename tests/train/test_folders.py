"""Folders of pictures as people have them: linked, hidden and other files."""

from __future__ import annotations

import os

from PIL import Image

from hypir.train.pictures import list_pictures

GRAY = Image.new("RGB", (8, 8), (128, 128, 128))


def test_folders_are_listed_through_links_without_circles_and_hidden_files(tmp_path, caplog):
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for place in (folder / "deep", folder / ".thumbnails", folder / "__MACOSX", elsewhere):
        place.mkdir(parents=True)
        GRAY.save(place / "a.PNG")
    GRAY.save(folder / "b.jpg")
    (folder / "._b.jpg").write_bytes(b"\0\5\x16\7")
    GRAY.save(folder / "c.tga")
    (folder / "c.heic").write_bytes(b"whatever")
    os.symlink(elsewhere, folder / "linked")
    os.symlink(folder, folder / "circle")
    os.symlink(folder / "none", folder / "dangling.png")
    names = [file.relative_to(folder).as_posix() for file in list_pictures(folder)]
    assert names == ["b.jpg", "c.tga", "deep/a.PNG", "linked/a.PNG"]
    assert "dangling.png leads nowhere" in caplog.text
    assert "1 .heic pictures, which cannot be read" in caplog.text
    assert list_pictures(folder / "b.jpg") == [folder / "b.jpg"]
