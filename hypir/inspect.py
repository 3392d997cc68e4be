"""What `python -m hypir inspect` prints about a weight file."""

import hashlib
import os
from pathlib import Path

from .encoder import EncoderWeights, is_encoder, read_encoder
from .weights import HypirWeights, read_weights

PUBLIC_FILES = {
    "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2": (
        "v2-1_512-ema-pruned.safetensors",
        "Stable Diffusion 2.1-base",
    ),
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": (
        "v2-1_512-ema-pruned.ckpt",
        "Stable Diffusion 2.1-base",
    ),
    "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b": (
        "sd_xl_base_1.0.safetensors",
        "Stable Diffusion XL 1.0",
    ),
    "8e91b68084b53a7fc44ed2a3756d821e355ac1a7b6fe29be760c1db532f3d88a": (
        "flux1-dev-fp8.safetensors",
        "FLUX.1 dev in fp8",
    ),
    "6c671498573ac2f7a5501502ccce8d2b08ea6ca2f661c458e708f36b36edfc5a": (
        "qwen_3_4b.safetensors",
        "the text encoder of Z-Image",
    ),
    "afc8e28272cd15db3919bacdb6918ce9c1ed22e96cb12c4d5ed0fba823529e38": (
        "ae.safetensors",
        "the VAE of FLUX.1 and Z-Image",
    ),
}
"""sha256 -> (name, what it is). Each digest stands in at least two independent public lists; for
HYPIR_sd2.pth none was found."""


def describe_file(path: str | os.PathLike) -> str:
    """A readable description of a HYPIR weight file or encoder file, one fact per line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with one sentence naming the file and what is wrong.
    """
    digest = sha256_of(path) if Path(path).is_file() else ""
    if digest in PUBLIC_FILES:
        name, what = PUBLIC_FILES[digest]
        return "\n".join(
            [
                f"kind                  {what}: no HYPIR weights, but what they are loaded onto",
                f"sha256                {digest}",
                f"public file           yes, {name}",
            ]
        )
    facts = (
        describe_encoder(read_encoder(path)) if is_encoder(path) else describe(read_weights(path))
    )
    return "\n".join(
        [
            facts,
            f"sha256                {digest}",
            "public file           not in the list here; compare the sha256 with that on the page "
            "the file comes from",
        ]
    )


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal (FileNotFoundError if there is no such file)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def describe(weights: HypirWeights) -> str:
    """A readable description of weights, one fact per line."""
    kind = "public HYPIR weights (peft names)" if weights.source == "public" else "HYPIR weights"
    parameters = sum(up.numel() + down.numel() for up, down in weights.lora.values())
    dtypes = sorted({str(up.dtype).removeprefix("torch.") for up, _ in weights.lora.values()})
    lines = [
        f"kind                  {kind}",
        f"prior                 {weights.prior.name}: {weights.prior.title}",
        f"prediction            {weights.prior.prediction.name}",
        f"rank                  {weights.rank}",
        f"modules               {len(weights.lora)} ({2 * len(weights.lora)} tensors)",
        f"parameters            {parameters / 1e6:.1f} M, {', '.join(dtypes)}",
        f"timestep              {weights.timestep}",
        f"coefficient timestep  {weights.coefficient_timestep}",
        f"input scale           {weights.input_scale:g}",
        f"texture richness      {'yes' if weights.texture else 'no'}",
        "checks                all modules present, shapes correct, nothing unknown, all finite",
    ]
    if weights.conditions:
        told = ", ".join(f"{k}={v:g}" for k, v in weights.conditions.items())
        lines.insert(-1, f"conditions            {told}")
    return "\n".join(lines)


def describe_encoder(encoder: EncoderWeights) -> str:
    """A readable description of an encoder file, one fact per line.

    Raises:
        ValueError: if its last layer is missing.
    """
    tiny = any(key.startswith("taesd_encoder.") for key in encoder.tensors)
    head = "encoder.conv_out.weight"
    if tiny:
        head = f"taesd_encoder.{max(int(key.split('.')[1]) for key in encoder.tensors)}.weight"
    if head not in encoder.tensors:
        raise ValueError(
            f"an encoder must end in {head}, but the file lacks it; download the file again"
        )
    latent = encoder.tensors[head].shape[0] // (1 if tiny else 2)  # otherwise mean and log variance
    dtypes = sorted({str(v.dtype).removeprefix("torch.") for v in encoder.tensors.values()})
    parameters = sum(v.numel() for v in encoder.tensors.values())
    return "\n".join(
        [
            "kind                  HYPIR encoder (degradation removal)",
            f"layout                {'TAESD' if tiny else 'AutoencoderKL'}",
            f"latent channels       {latent}",
            f"tensors               {len(encoder.tensors)}",
            f"parameters            {parameters / 1e6:.1f} M, {', '.join(dtypes)}",
            "checks                encoder tensors only, all finite, decoder fingerprint present; "
            "the fit to a VAE is checked on loading",
        ]
    )
