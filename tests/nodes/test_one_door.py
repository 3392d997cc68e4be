"""Every way to the step gives one picture: the closed form on the network's own output.

The oracle calls the network itself, tile by tile, and does the rest by formula in float64; it knows
nothing of guiders, samplers or resolved conditions.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from hypir.priors import PRIORS

from .test_parity import host_model_of, network_of

CELLS = (16, 32)
TILED = {"tile_size": 128, "overlap": 0}
TILES = {"whole": ((0, 32),), "tiled": ((0, 16), (16, 32))}


def alpha_bar(t: int) -> float:
    """Of Stable Diffusion's "scaled linear" schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return float((1 - betas)[: t + 1].prod())


def sizes_embedding(width: float, height: float) -> torch.Tensor:
    """SDXL's six numbers (original, crop, target), sinusoids of 256 [Podell et al. 2023, 2.2]."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    numbers = torch.tensor([height, width, 0.0, 0.0, height, width])
    angles = numbers[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).reshape(1, -1)


def columns(extra: dict, left: int, right: int) -> tuple[int, int]:
    """Those of a tile that lie in the area of a condition."""
    _, width, _, x = extra.get("area", (16, 32, 0, 0))
    return max(left, x), min(right, x + width)


class Oracle:
    """x0 of one MODEL by formula."""

    def __init__(self, name: str, model, prior):
        self.name, self.model, self.prior = name, model, prior

    def output(self, x_t, text, extra: dict):
        network, pooled = self.model.model.diffusion_model, extra.get("pooled_output")
        if self.name in ("sd2", "sd2-v"):
            return network(x_t, torch.tensor([200.0]), context=text)
        if self.name == "sdxl":
            sizes = sizes_embedding(extra.get("width", 1024.0), extra.get("height", 1024.0))
            y = torch.cat([pooled, sizes], dim=1)
            return network(x_t, torch.tensor([200.0]), context=text, y=y)
        if self.name == "sd3":
            return network(x_t, torch.tensor([364.0]), context=text, y=pooled)
        if self.name == "z_image":
            words = text.shape[1]
            return network(x_t, torch.tensor([0.364]), context=text, num_tokens=words)
        guidance = torch.tensor([extra.get("guidance", 3.5)])
        return network(x_t, torch.tensor([0.364]), context=text, y=pooled, guidance=guidance)

    def x0(self, z, text, extra: dict):
        if self.name in ("sd2", "sdxl"):
            bar = alpha_bar(200)
            return (z - (1 - bar) ** 0.5 * self.output(z, text, extra)) / bar**0.5
        if self.name == "sd2-v":
            bar = alpha_bar(200)
            return bar**0.5 * z - (1 - bar) ** 0.5 * self.output(z, text, extra)
        s = 0.364
        x_t = ((1 - s) ** 2 + s**2) ** 0.5 * z
        return x_t - s * self.output(x_t, text, extra)

    def latent(self, samples, conditions, tiles):
        """All tiles of all images; conditions as (tokens, extra, weight per cell or None)."""
        prior = self.prior
        z = (samples - prior.latent_shift) * prior.latent_scale
        out = torch.zeros_like(z)
        for item in range(len(z)):
            for left, right in tiles:
                total = 0
                for text, extra, weight in conditions:
                    token = text[item % len(text)][None]
                    first, last = columns(extra, left, right)
                    x0 = torch.zeros_like(z[:1, ..., left:right])
                    if first < last:  # of an area, the network sees nothing but its part
                        part = z[item : item + 1, ..., first:last]
                        x0[..., first - left : last - left] = self.x0(part, token, extra)
                    if weight is None:
                        weight = torch.ones(CELLS)
                    out[item, ..., left:right] += (x0 * weight[:, left:right])[0]
                    total = total + weight[:, left:right]
                out[item, ..., left:right] /= total
        return out / prior.latent_scale + prior.latent_shift


@pytest.fixture(scope="module", params=list(PRIORS))
def case(request, host):
    name = request.param
    model = host_model_of(host, name, network_of(name)[0])
    pack = host.pack("nodes.host.model")
    prior, widths = pack.detect_prior(model), pack.text_widths(model)
    generator = torch.Generator().manual_seed(11)

    def prompt(items: int = 1, **extra) -> list:
        told = dict(extra)
        if widths.pooled:
            told["pooled_output"] = torch.randn(1, widths.pooled, generator=generator)
        return [torch.randn(items, 5, widths.token, generator=generator), told]

    samples = torch.randn(2, prior.latent_channels, *CELLS, generator=generator)
    return {
        "oracle": Oracle(name, model, prior),
        "model": model,
        "prompt": prompt,
        "samples": samples / prior.latent_scale + prior.latent_shift,
    }


def halves():
    left = torch.zeros(CELLS)
    left[:, :16] = 1
    return left, 1 - left


def pixel_mask(cells):
    return cells.repeat_interleave(8, 0).repeat_interleave(8, 1)[None]


def plain(prompt):
    one = prompt()
    return [one], [(*one, None)]


def two(prompt):
    both = [prompt(), prompt()]
    return both, [(*entry, None) for entry in both]


def in_halves(prompt):
    left, right = halves()
    made, told = [], []
    for cells in (left, right):
        text, extra = prompt()
        made.append([text, {**extra, "mask": pixel_mask(cells), "mask_strength": 1.0}])
        told.append((text, extra, cells))
    return made, told


def in_areas(prompt):
    made, told = [], []
    for x, cells in zip((0, 16), halves(), strict=True):
        text, extra = prompt(area=(16, 16, 0, x), strength=1.0)
        made.append([text, extra])
        told.append((text, extra, cells))
    return made, told


def of_strengths(prompt):
    both = [prompt(strength=0.25), prompt(strength=2.0)]
    return both, [(*entry, torch.full(CELLS, entry[1]["strength"])) for entry in both]


def per_image(prompt):
    one = prompt(2)
    return [one], [(*one, None)]


def in_range(prompt):
    text, extra = prompt()
    limits = {"start_percent": 0.3, "end_percent": 1.0}
    idle = [torch.zeros_like(text), {**extra, "start_percent": 0.0, "end_percent": 0.01}]
    return [[text, {**extra, **limits}], idle], [(text, extra, None)]


def told_otherwise(prompt):
    one = prompt(width=640, height=512, guidance=1.5)
    return [one], [(*one, None)]


KINDS = (plain, two, in_halves, in_areas, of_strengths, per_image, in_range, told_otherwise)


@pytest.fixture
def entries(host, run):
    core = host.core

    def restore(model, positive, latent, options):
        return run("HYPIRRestore", model, positive, latent, **options)

    def custom(model, positive, latent, options):
        sampler, sigmas = run("HYPIRSampler", model, **options)
        node = core["SamplerCustom"]
        made = node.execute(model, True, 7, 1.0, positive, [], sampler, sigmas, latent)
        return made.result[0]

    def advanced(model, positive, latent, options):
        sampler, sigmas = run("HYPIRSampler", model, **options)
        guider = core["BasicGuider"].execute(model, positive).result[0]
        noise = core["DisableNoise"].execute().result[0]
        node = core["SamplerCustomAdvanced"]
        return node.execute(noise, guider, sampler, sigmas, latent).result[0]

    return (restore, custom, advanced)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("tiles", TILES)
def test_all_ways_give_the_closed_form(case, entries, kind, tiles):
    positive, told = kind(case["prompt"])
    options = TILED if tiles == "tiled" else {}
    counts = (1, 2) if kind in (plain, in_halves) else (2,)
    for count in counts:
        samples = case["samples"][:count]
        want = case["oracle"].latent(samples, told, TILES[tiles])
        for entry in entries:
            got = entry(case["model"], positive, {"samples": samples}, options)["samples"]
            assert_close(got, want, atol=5e-4, rtol=1e-4, msg=lambda m, e=entry: f"{e}: {m}")


def test_a_guider_with_cfg_is_the_closed_form_of_both_prompts(case, host, run):
    positive, negative = case["prompt"](), case["prompt"]()
    latent = {"samples": case["samples"]}
    sampler, sigmas = run("HYPIRSampler", case["model"], **TILED)
    guider = host.core["CFGGuider"].execute(case["model"], [positive], [negative], 2.5).result[0]
    noise = host.core["DisableNoise"].execute().result[0]
    node = host.core["SamplerCustomAdvanced"]
    got = node.execute(noise, guider, sampler, sigmas, latent).result[0]["samples"]
    wanted, other = (
        case["oracle"].latent(latent["samples"], [(*entry, None)], TILES["tiled"])
        for entry in (positive, negative)
    )
    assert_close(got, other + 2.5 * (wanted - other), atol=2e-3, rtol=1e-4)


def wrong_sockets(case) -> dict[str, tuple[list, str]]:
    text, extra = case["prompt"]()
    wrong = {
        "another encoder's tokens": ([text[..., :-1], extra], "takes text tokens of width"),
        "no tokens": ([None, extra], "has no text tokens"),
    }
    if "pooled_output" in extra:
        narrow = {**extra, "pooled_output": extra["pooled_output"][:, :-1]}
        wrong["another encoder's pooled text"] = ([text, narrow], "pooled text vector of width")
    return wrong


def test_wrong_sockets_get_a_sentence_on_every_way(case, entries):
    for condition, words in wrong_sockets(case).values():
        for entry in entries:
            with pytest.raises(ValueError, match=words):
                entry(case["model"], [condition], {"samples": case["samples"]}, {})


def test_a_text_without_its_pooled_vector(case, run):
    text, extra = case["prompt"]()
    needed = case["oracle"].name in ("sdxl", "sd3")
    positive = [[text, {k: v for k, v in extra.items() if k != "pooled_output"}]]
    if not needed:
        run("HYPIRRestore", case["model"], positive, {"samples": case["samples"]})
        return
    with pytest.raises(ValueError, match="needs the pooled vector of the text"):
        run("HYPIRRestore", case["model"], positive, {"samples": case["samples"]})
