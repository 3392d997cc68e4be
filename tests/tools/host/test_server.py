"""The host as a server: what is put into its folders."""

from __future__ import annotations

from tools.host.server import link


def test_links_lead_to_the_file_without_copying_it(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(b"abc")
    link(file, tmp_path / "models" / "loras" / "weights.bin")
    assert (tmp_path / "models" / "loras" / "weights.bin").samefile(file)
