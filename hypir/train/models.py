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

from .architectures import ARCHITECTURES, Architecture, Condition, recognise
from .architectures.tiny import TINY_PRIOR, tiny_models, tiny_network, tiny_vae
from .files import Model
from .recipe import Recipe
from .weightless import plans, reads_weights

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Of exported files."""
PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of frozen networks."""
OWN_BASES = ("small", "tiny")
"""Base models that are made here; their weights are in float32."""


class Text:
    """Captions to conditions, by the text encoders of a diffusers pipeline or as zeros."""

    def __init__(
        self,
        architecture: Architecture,
        widths: tuple[int, int],
        pipeline=None,
        tokens: int = 1,
    ):
        """`widths`: of a token and the pooled vector; `tokens`: of a caption without encoders."""
        self.architecture, self.pipeline, self.widths = architecture, pipeline, widths
        self._tokens = tokens
        self._empty: Condition | None = None

    @property
    def token_width(self) -> int:
        """Of a token, and so of the richness token."""
        return self.widths[0]

    def to(self, device: torch.device) -> "Text":
        """Move the text encoders, if there are any."""
        if self.pipeline is not None:
            self.pipeline.to(device)
        return self

    @torch.no_grad()
    def encode(self, captions: list[str], device: torch.device) -> Condition:
        """Conditions of captions.

        Without text encoders the empty caption is the zero token, as the nodes give it, and any
        other a random one of its own, always the same, that stands for nothing yet.
        """
        if self.pipeline is None:
            token, pooled = self.widths
            own = torch.stack([_own_token(c, token) for c in captions])
            vector = torch.zeros(len(captions), pooled, device=device) if pooled else None
            return Condition(own.to(device, non_blocking=True).repeat(1, self._tokens, 1), vector)
        if any(captions):
            # A copy: some pipelines write into the list that they are given.
            return self.architecture.encode(self.pipeline, list(captions), device)
        if self._empty is None:
            self._empty = self.architecture.encode(self.pipeline, [""], device)
        self._empty = self._empty.to(device)
        return self._empty.repeated(len(captions))


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
    asked = recipe.model
    if plans():
        return _untrained_base(recipe)
    if asked.base == "small":
        return small_base(asked.prior, recipe.seed)
    if asked.base == "tiny":
        return _tiny_base(recipe)
    precision = recipe.engine.precision
    return _load_pipeline(PRIORS[asked.prior], asked.base, asked.variant, precision)


def small_base(prior_name: str, seed: int = 0, width: int = 64) -> Base:
    """A small model of a prior's class with random weights.

    `width` is that of a UNet, a multiple of 64: the host recognises 320 only. Transformers have
    one size.
    """
    prior, architecture = PRIORS[prior_name], ARCHITECTURES[prior_name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, vae = architecture.small_network(width), architecture.small_vae()
    return Base(prior, network, vae, Text(architecture, architecture.text_widths(network)))


def untrained_models(asked: Model) -> tuple[nn.Module, nn.Module]:
    """Network and autoencoder of a base model, in their sizes, with the weights of a new module.

    A base model whose configs are not on this disk has the sizes of the published one.
    """
    import diffusers

    if asked.base == "tiny":
        return tiny_network(asked.depth), tiny_vae()
    architecture, folder = ARCHITECTURES[asked.prior], Path(asked.base)
    if asked.base == "small":
        return architecture.small_network(64), architecture.small_vae()
    if not (folder / "model_index.json").is_file():
        return architecture.full_network(), architecture.full_vae()
    parts = (architecture.network_class, architecture.part), ("AutoencoderKL", "vae")
    kinds = [(getattr(diffusers, kind), folder / part) for kind, part in parts]
    network, vae = (kind.from_config(kind.load_config(at)) for kind, at in kinds)
    return network, vae


def _untrained_base(recipe: Recipe) -> Base:
    """What load_base gives in a plan: sizes and precisions, and as many text tokens."""
    asked, architecture = recipe.model, ARCHITECTURES[recipe.model.prior]
    own = asked.base in OWN_BASES
    kept = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if own else PRECISIONS[recipe.engine.precision])
    try:
        with torch.device("meta"):
            network, vae = untrained_models(asked)
    finally:
        torch.set_default_dtype(kept)
    text = Text(
        architecture,
        architecture.text_widths(network),
        tokens=1 if own else architecture.text_tokens,
    )
    prior = TINY_PRIOR if asked.base == "tiny" else PRIORS[asked.prior]
    return Base(prior, network, vae.float() if recipe.engine.precision == "fp16" else vae, text)


def save_autoencoder(
    state: Mapping[str, Tensor], path: Path, dtype: torch.dtype, prior: Prior
) -> None:
    """Write the state dict of diffusers' TAESD layout as the host loads it."""
    tensors = {k: v.to("cpu", dtype) for k, v in host_names(state).items()}
    # The host divides latents by these, as its models multiply by them.
    tensors["vae_scale"] = torch.tensor(prior.latent_scale)
    tensors["vae_shift"] = torch.tensor(prior.latent_shift)
    write_tensors(path, tensors, {"hypir.autoencoder": "1"})


@reads_weights
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
    network, vae = tiny_models(recipe.model.depth, recipe.seed)
    entry = ARCHITECTURES[TINY_PRIOR.name]
    base = Base(TINY_PRIOR, network, vae, Text(entry, entry.text_widths(network)))
    for stage, module, put in (
        ("autoencoder", vae, load_vae_part),
        ("diffusion", network, load_network),
    ):
        path = recipe.files.find(stage, recipe.out, recipe.name)
        if path is not None:
            put(module, path)
            log.info("loaded %s", path)
    return base


@reads_weights
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


def _load_pipeline(prior: Prior, name: str, variant: str, precision: str) -> Base:
    from diffusers import DiffusionPipeline

    try:
        pipeline = DiffusionPipeline.from_pretrained(
            name,
            torch_dtype=PRECISIONS[precision],
            variant=variant or None,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the base model {name!r} cannot be loaded ({_first_line(error)}); download "
            f"{prior.title} in diffusers layout (model_index.json and folders) and give its folder "
            f"as --base, or log in to the hub (huggingface-cli login) where its licence asks for it"
        ) from error
    architecture = ARCHITECTURES[prior.name]
    network = getattr(pipeline, architecture.part, None)
    found = recognise(network, pipeline.scheduler.config)
    if found != prior:
        raise ValueError(
            f"{name!r} is {found.title if found else 'no known prior'}, the recipe wants "
            f"{prior.title}; give another --base or --prior"
        )
    # The autoencoders of SD and SDXL overflow in half precision.
    vae = pipeline.vae if precision != "fp16" else pipeline.vae.float()
    return Base(
        prior,
        network,
        vae,
        Text(architecture, architecture.text_widths(network), _text_only(pipeline)),
    )


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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
