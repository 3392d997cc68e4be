"""What `python -m hypir inspect` prints about a weight file."""

import os

from .encoder import EncoderWeights, is_encoder, read_encoder
from .weights import HypirWeights, read_weights


def describe_file(path: str | os.PathLike) -> str:
    """A readable description of a HYPIR weight file or encoder file, one fact per line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: with one sentence naming the file and what is wrong.
    """
    if is_encoder(path):
        return describe_encoder(read_encoder(path))
    return describe(read_weights(path))


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
