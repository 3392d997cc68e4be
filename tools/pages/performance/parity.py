"""`nox -s bench -- parity`: the host with this pack compared with diffusers + peft, full size.

Random full-size weights, a rank-256 LoRA of the public file's 257 modules, float32, one 512 px
tile: encode, step at t = 200, decode without clamping.
"""

from __future__ import annotations

import argparse
import gc
import logging
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hypir.priors import SD2
from tools.host.get_host import get_host
from tools.pages.markdown import table
from tools.pages.performance import clock, host, models, report

log = logging.getLogger(__name__)

TARGET = 1e-4
PX = 512
SCHEDULE = {  # stabilityai/stable-diffusion-2-1-base, scheduler/scheduler_config.json
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
}
RESULTS = ("encoded latent", "restored latent", "decoded image")


@torch.inference_mode()
def of_diffusers(
    unet: torch.nn.Module, vae: torch.nn.Module, lora: dict[str, Tensor]
) -> tuple[list[Tensor], float]:
    """The reference's results, and how much the LoRA changes the network's output.

    Returns:
        Latent and restored latent (both scaled), image; root mean square of the change of eps in
        standard deviations of eps.
    """
    from diffusers import DDPMScheduler

    pixels = clock.picture(PX).movedim(-1, 1) * 2 - 1  # BHWC -> BCHW
    z = vae.encode(pixels).latent_dist.mean * SD2.latent_scale
    arguments = z, torch.tensor([SD2.timestep]), models.context()
    plain = unet(*arguments).sample
    models.add_lora(unet)
    models.load_lora_into(unet, lora)
    eps = unet(*arguments).sample
    change = float((eps - plain).square().mean().sqrt() / plain.std())
    x0 = DDPMScheduler(**SCHEDULE).step(eps, SD2.timestep, z).pred_original_sample
    image = vae.decode(x0 / SD2.latent_scale).sample / 2 + 0.5
    return [z, x0, image.movedim(1, -1)], change


@torch.inference_mode()
def of_host(
    pack: host.Host, unet_state: dict, vae_state: dict, lora: dict[str, Tensor]
) -> list[Tensor]:
    """The same through the pack's nodes; the decoder's output before clamping."""
    model = host.make_model(unet_state, torch.float32)
    vae = host.make_vae(vae_state, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lora.pth"
        torch.save(lora, file)
        model = pack.pack("nodes.host.model").load_lora(model, str(file), file.name, 1.0)
    samples = pack.run("HYPIREncode", image=clock.picture(PX), vae=vae)
    z = samples["samples"]
    positive = [[models.context(), {}]]
    samples = pack.run("HYPIRRestore", model=model, positive=positive, samples=samples)
    x0 = samples["samples"]
    image = pack.pack("nodes.host.vae").decode(vae, x0)
    return [z * SD2.latent_scale, x0 * SD2.latent_scale, image]


def main(options: list[str]) -> None:
    argparse.ArgumentParser("nox -s bench -- parity", description=__doc__).parse_args(options)
    pack = host.start(get_host())
    lora = models.random_lora(torch.float32)
    unet, vae = models.make_unet(), models.make_vae()
    states = unet.state_dict(), vae.state_dict()  # before peft renames the layers it wraps
    expected, change = of_diffusers(unet, vae, lora)
    del unet, vae
    gc.collect()
    found = of_host(pack, *states, lora)
    rows = []
    for name, ours, theirs in zip(RESULTS, found, expected, strict=True):
        error = float((ours - theirs).abs().max())
        rows.append((name, f"{error:.1e}", f"{float(theirs.std()):.3f}"))
    text = "\n\n".join(
        [
            "The pack in ComfyUI compared with diffusers + peft: random full-size weights, "
            f"rank-256 LoRA on the 257 modules of the public file, float32, {report.machine()}, "
            f"one {PX} px tile: encode, step at t = {SD2.timestep}, decode before clamping. "
            f"Target: at most {TARGET:.0e} on latents.",
            table(("result", "largest error", "standard deviation"), rows),
            f"The LoRA changes the network's output by {change:.2f} standard deviations (root mean "
            "square).",
        ]
    )
    log.info("%s", text)
    report.write("parity", text)
