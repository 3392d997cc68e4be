"""Base models: network, autoencoder and text encoders, from diffusers' loaders or small and random.

The small ones are of the real classes and small enough for a CPU; the host recognises each of them.
"""

import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hypir.encoder import ENCODER_PREFIXES, host_names
from hypir.noise import standard_normal
from hypir.priors import PRIORS, Prior
from hypir.weight_files import read_tensors, write_tensors

from .klt import start_as_transform
from .recipes import Recipe
from .small_models import small_network, small_vae, tiny_network, tiny_vae

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTOENCODER_FILE, PRIOR_FILE = "autoencoder.safetensors", "prior.safetensors"
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}


@dataclass(frozen=True)
class Condition:
    """What the network is told about some pictures beside the timestep."""

    tokens: Tensor
    """(B, N, token width)."""
    pooled: Tensor | None
    """(B, pooled width), None where the network takes none."""


class Text:
    """Captions to conditions, by the text encoders of a diffusers pipeline or as zeros."""

    def __init__(self, token_width: int, pooled_width: int, pipeline=None):
        self._widths, self._pipeline = (token_width, pooled_width), pipeline
        self._empty: Condition | None = None

    def to(self, device: torch.device) -> "Text":
        """Move the text encoders, if there are any."""
        if self._pipeline is not None:
            self._pipeline.to(device)
        return self

    @torch.no_grad()
    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Conditions of captions.

        Without text encoders the empty caption is the zero token, as the nodes give it, and any
        other a random one of its own, always the same, that stands for nothing yet.
        """
        if self._pipeline is None:
            token, pooled = self._widths
            zeros = torch.stack([_own_token(c, token) for c in captions]).to(device)
            vector = torch.zeros(len(captions), pooled, device=device) if pooled else None
            return Condition(zeros, vector)
        if any(captions):
            return _encode(self._pipeline, captions, device)
        if self._empty is None:
            self._empty = _encode(self._pipeline, [""], device)
        tokens, pooled = self._empty.tokens, self._empty.pooled
        count = len(captions)
        return Condition(
            tokens.expand(count, -1, -1), pooled.expand(count, -1) if pooled is not None else None
        )


@dataclass
class Base:
    """A base model, nothing of it adapted."""

    prior: Prior
    network: nn.Module
    """UNet or transformer of diffusers."""
    vae: nn.Module
    """AutoencoderKL or AutoencoderTiny of diffusers."""
    text: Text

    def __post_init__(self) -> None:
        self.network.requires_grad_(False).eval()
        self.vae.requires_grad_(False).eval()


def load_base(recipe: Recipe) -> Base:
    """The base model that a recipe names.

    Raises:
        ValueError: naming what is missing and how to get it, or that the model is another prior's.
    """
    prior = PRIORS[recipe.prior]
    if recipe.base == "small":
        return small_base(prior.name, recipe.seed)
    if recipe.base == "tiny":
        return _tiny_base(recipe)
    return _load_pipeline(recipe, prior)


def small_base(prior_name: str, seed: int = 0, width: int = 64) -> Base:
    """A small model of a prior's class with random weights.

    `width` is that of a UNet, a multiple of 64: the host recognises 320 only. SD3's and Flux's
    small networks it recognises as they are.
    """
    prior = PRIORS[prior_name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, vae = small_network(prior_name, width), small_vae(prior)
    return Base(prior, network, vae, Text(*text_widths(network)))


def text_widths(network: nn.Module) -> tuple[int, int]:
    """Widths of a network's text tokens and of its pooled text vector (0 = none)."""
    config = network.config
    if "joint_attention_dim" in config:
        return config.joint_attention_dim, config.pooled_projection_dim
    projected = config.projection_class_embeddings_input_dim
    sizes = 6 * (config.addition_time_embed_dim or 0)
    return config.cross_attention_dim, (projected - sizes) if projected else 0


def save_autoencoder(
    state: Mapping[str, Tensor], path: Path, dtype: torch.dtype, prior: Prior
) -> None:
    """Write the state dict of diffusers' TAESD layout as the host loads it."""
    tensors = {k: v.to("cpu", dtype) for k, v in host_names(state).items()}
    # The host divides latents by these, as its models multiply by them.
    tensors["vae_scale"] = torch.tensor(prior.latent_scale)
    tensors["vae_shift"] = torch.tensor(prior.latent_shift)
    write_tensors(path, tensors, {"hypir.autoencoder": "1"})


def load_vae_part(vae: nn.Module, path: Path) -> None:
    """Put tensors under the host's names (an autoencoder or an encoder file) into diffusers' VAE.

    Raises:
        ValueError: if a tensor has no place or another shape, or an encoder is incomplete.
    """
    tensors, _ = read_tensors(path)
    tensors = {k: v for k, v in host_names(tensors).items() if k not in ("vae_scale", "vae_shift")}
    own = vae.state_dict()
    place = {name: key for key, name in zip(own, host_names(own), strict=True)}
    unknown = [k for k in tensors if k not in place or tensors[k].numel() != own[place[k]].numel()]
    lacking = [k for k in place if k.startswith(ENCODER_PREFIXES) and k not in tensors]
    if unknown or lacking:
        raise ValueError(
            f"{Path(path).name} does not fit the autoencoder of the base model, first offender "
            f"{(unknown or lacking)[0]!r}; use the file that was trained for it"
        )
    state = {place[k]: v.reshape(own[place[k]].shape) for k, v in tensors.items()}
    vae.load_state_dict(state, strict=False)


def _tiny_base(recipe: Recipe) -> Base:
    """The tiny stack with the weights that earlier stages of this run, or files, give."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network, vae = tiny_network(recipe.depth), tiny_vae()
    start_as_transform(vae)
    # The velocity starts at zero, that is at a loss of 2.
    nn.init.zeros_(network.proj_out.weight)
    nn.init.zeros_(network.proj_out.bias)
    # 1.2 to 1.7 times as fast on a CPU: its layers are all convolutions.
    vae.to(memory_format=torch.channels_last)
    base = Base(PRIORS["sd3"], network, vae, Text(*text_widths(network)))
    out = Path(recipe.out)
    for given, name, put in (
        (recipe.autoencoder_file, AUTOENCODER_FILE, lambda path: load_vae_part(vae, path)),
        (recipe.prior_file, PRIOR_FILE, lambda path: load_network(network, path)),
    ):
        path = Path(given) if given else out / name
        if given or (recipe.out and path.is_file()):
            put(path)
            log.info("loaded %s", path)
    return base


def load_network(network: nn.Module, path: Path) -> None:
    """Put the tensors of a file into a network.

    Raises:
        ValueError: if they are another network's.
    """
    tensors, _ = read_tensors(path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network of the recipe: {error}") from error


def _load_pipeline(recipe: Recipe, prior: Prior) -> Base:
    from diffusers import DiffusionPipeline

    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            recipe.base,
            torch_dtype=dtype,
            variant=recipe.variant or None,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the base model {recipe.base!r} cannot be loaded ({_first_line(error)}); download "
            f"{prior.title} in diffusers layout (model_index.json and folders) and give its folder "
            f"as --base, or log in to the hub (huggingface-cli login) where its licence asks for it"
        ) from error
    network = getattr(pipeline, "transformer", None) or pipeline.unet
    found = _prior_of(network, pipeline.scheduler.config)
    if found != prior.name:
        raise ValueError(
            f"{recipe.base!r} is {PRIORS[found].title if found else 'no known prior'}, the recipe "
            f"wants {prior.title}; give another --base or --prior"
        )
    vae = pipeline.vae if recipe.precision != "fp16" else pipeline.vae.float()
    text = Text(*text_widths(network), pipeline=_text_only(pipeline))
    return Base(prior, network, vae, text)


def _text_only(pipeline):
    """The pipeline without network and autoencoder: what moves is its text encoders."""
    parts = {name: None for name in ("unet", "transformer", "vae") if name in pipeline.components}
    pipeline.register_modules(**parts)
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        if getattr(pipeline, name, None) is not None:
            getattr(pipeline, name).requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _own_token(caption: str, width: int) -> Tensor:
    """(1, width), standard normal."""
    if not caption:
        return torch.zeros(1, width)
    return standard_normal((1, width), zlib.crc32(caption.encode()))


def _encode(pipeline, captions: list[str], device: torch.device) -> Condition:
    kind = type(pipeline).__name__
    if kind.startswith("StableDiffusionXL") or kind.startswith("StableDiffusion3"):
        third = {"prompt_3": None} if kind.startswith("StableDiffusion3") else {}
        tokens, _, pooled, _ = pipeline.encode_prompt(
            prompt=captions,
            prompt_2=None,
            device=device,
            do_classifier_free_guidance=False,
            **third,
        )
        return Condition(tokens, pooled)
    if kind.startswith("Flux"):
        tokens, pooled, _ = pipeline.encode_prompt(prompt=captions, prompt_2=None, device=device)
        return Condition(tokens, pooled)
    tokens, _ = pipeline.encode_prompt(captions, device, 1, False)
    return Condition(tokens, None)


def _prior_of(network: nn.Module, scheduler) -> str:
    """Name of the prior that a network and its scheduler are, "" if none."""
    kind = type(network).__name__
    if kind == "SD3Transformer2DModel":
        return "sd3"
    if kind == "FluxTransformer2DModel":
        return "flux"
    if kind != "UNet2DConditionModel":
        return ""
    prediction = _PREDICTIONS.get(scheduler.get("prediction_type", "epsilon"), "")
    if network.config.addition_embed_type == "text_time":
        return "sdxl" if prediction == "eps" else ""
    return {"eps": "sd2", "v": "sd2-v"}.get(prediction, "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
