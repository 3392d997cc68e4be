"""HYPIR Plan says what then happens."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from hypir.priors import PRIORS


def test_the_plan_names_the_tiles_that_then_run(run, sd2, vae, prompt, photo, caplog):
    image = photo[:, :16].repeat(1, 1, 3, 1)  # 1536 x 16 px: several tiles
    tiles, report = run("HYPIRPlan", sd2, vae, image)
    assert tiles.shape == (3, 11, 1024, 3)
    assert "1 tile" not in report
    told = dict(re.findall(r"^(encode|step|decode) +(\d+ tiles? of \S+ px)", report, re.MULTILINE))
    caplog.set_level(logging.INFO)
    latent = run("HYPIREncode", image, vae)
    run("HYPIRDecode", run("HYPIRRestore", sd2, prompt, latent), vae)
    for stage, text in told.items():
        assert re.search(rf"HYPIR {stage}: \d+\.\d s, peak \d.* {text}, \d+ per call", caplog.text)
    assert set(told) == {"encode", "step", "decode"}


def test_the_memory_is_what_the_host_is_asked_for(run, sd2, vae, asked, photo):
    image = photo[:, :64, :64]
    _, report = run("HYPIRPlan", sd2, vae, image)
    run("HYPIREncode", image, vae)
    (line,) = (x for x in report.splitlines() if x.startswith("encode"))
    assert f"{asked[-1] / 2**30:.2f} GiB per tile" in line


def test_a_small_device_is_told_its_smaller_tiles(run, sd2, vae, monkeypatch):
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda *_, **__: 2 * 2**30)
    _, report = run("HYPIRPlan", sd2, vae, width=2048, height=2048)
    assert "would not fit)" in report and "without smaller tiles" in report
    assert "2048x2048 px, 4.19 megapixels" in report


def test_without_a_vae_its_memory_is_not_guessed(run, sd2):
    tiles, report = run("HYPIRPlan", sd2, width=1, height=1)
    assert tiles.shape == (3, 1, 1, 3)
    assert report.count("GiB per tile") == 1
    assert "memory of encode and decode not known" in report


def test_the_report_holds_what_a_bug_report_needs(run, host, sd2, vae):
    _, report = run("HYPIRPlan", sd2, vae)
    for word in ("HYPIR nodes", "ComfyUI", torch.__version__, "device memory", "HYPIR weights"):
        assert word in report
    assert PRIORS["sd2"].title in report and "none known" in report


def test_a_wrong_model_or_image_gets_a_sentence(run, sd2, vae):
    with pytest.raises(ValueError, match=r"image must be"):
        run("HYPIRPlan", sd2, vae, torch.zeros(3, 8, 8))


def test_the_records_hold_the_hosts_own_factors(host):
    import comfy.supported_models as classes

    names = {"sd2": "SD20", "sd2-v": "SD20", "sdxl": "SDXL", "sd3": "SD3", "flux": "Flux"}
    names["z_image"] = "ZImage"
    for name, prior in PRIORS.items():
        # newer hosts may estimate otherwise; a factor of two would be another network
        factor = getattr(classes, names[name]).memory_usage_factor
        assert 0.5 < prior.memory_factor / factor < 2


def test_a_taesd_is_planned_as_one(run, sd2, vae):
    import comfy.sd
    from comfy.taesd.taesd import TAESD

    tiny = comfy.sd.VAE(sd=TAESD(latent_channels=4).state_dict())
    whole, small = (run("HYPIRPlan", sd2, v)[1] for v in (vae, tiny))
    totals = [float(re.search(r"in all +(\S+) TFLOP", text)[1]) for text in (whole, small)]
    assert totals[1] < totals[0] / 3
