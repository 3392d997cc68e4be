"""Which page the host serves."""

from __future__ import annotations

from tools.host import get_frontend


def test_without_the_variable_the_host_serves_its_own_page(monkeypatch):
    monkeypatch.delenv("COMFYUI_FRONTEND", raising=False)
    assert get_frontend.get_frontend() is None


def test_a_page_that_was_downloaded_is_not_downloaded_again(monkeypatch, tmp_path):
    static = tmp_path / "frontend-9.9.9" / "comfyui_frontend_package" / "static"
    static.mkdir(parents=True)
    (static / "index.html").write_text("<html></html>")
    monkeypatch.setattr(get_frontend, "HOSTS", tmp_path)
    monkeypatch.setenv("COMFYUI_FRONTEND", "9.9.9")
    assert get_frontend.get_frontend() == static
