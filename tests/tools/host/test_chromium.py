"""Chromium for the tests of the page."""

from __future__ import annotations

import pytest

from tools.host import chromium


def test_a_machine_without_chromium_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    for attempt in (chromium.find_chromium, chromium.install):
        with pytest.raises(OSError, match="install the package chromium") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_a_chromium_that_is_there_is_used(tmp_path, monkeypatch):
    program = tmp_path / "chromium"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.find_chromium() == str(program)
