"""Short runs of the adversarial stage, and what is measured of what they make.

Every trial is one recipe and one seed; what it gave is kept in a file, so that experiments which
share a trial train it once, and a run that was stopped goes on.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hypir.degradation_presets import PRESETS
from hypir.metrics import band_correlations, detail_ratio
from hypir.noise import inject_noise
from hypir.texture import laplacian_response, luma, measure_richness
from hypir.train.adversarial_stage import AdversarialStage
from hypir.train.data import derive_seed
from hypir.train.dead_leaves import LeafCanvas
from hypir.train.degrading import degrade_and_enlarge
from hypir.train.engine import make_accelerator
from hypir.train.export import put_weights
from hypir.train.feed import Batch
from hypir.train.loop import run_stage
from hypir.train.recipe import Recipe
from hypir.train.schedule import Phase
from hypir.train.small_recipe import once
from hypir.train.validation import to_image
from hypir.weights import read_weights
from tools.workflows.parts import TINY, TINY_ENCODER, TINY_LORA, TINY_VAE

log = logging.getLogger(__name__)

FILES = {
    "autoencoder_file": TINY_VAE.path,
    "prior_file": TINY.path,
    "encoder_file": TINY_ENCODER.path,
}
LORA = TINY_LORA.path
HELD_OUT_SEED = 900_001
"""Of canvases that no training draws."""
CROP, COUNT = 96, 8
"""Of the pictures that are measured: side in pixels, number per preset."""
STRENGTHS = ("light", "medium", "heavy")
LOOKS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Parts of a run at which the held-out pictures are looked at, and before its first step."""
VERSION = 3
"""To be raised with every change of what is measured, so that kept results are not reused."""
NOISE, DRAWS = 0.5, 4
"""Of the spread: strength of injected noise, and how many seeds."""


@dataclass(frozen=True)
class Lab:
    """Where the model lies, where results are kept, how long trials are."""

    model: Path
    out: Path
    steps: int
    seeds: tuple[int, ...] = (0, 1, 2)

    def recipe(self, seed: int, **changes) -> Recipe:
        """A short run of the adversarial stage."""
        phases = {"adversarial": self.phases(self.steps)}
        files = {field: str(self.model / name) for field, name in FILES.items()}
        values = {"stages": ("adversarial",), "seed": seed, "crop": 64, "pool": 64, "pool_uses": 4}
        values |= {"ema": 0.9, "warmup": 20, "precision": "no", "export": "fp32", "probe_every": 0}
        # In latents, which takes a third of the time; a process of its own folder.
        values |= {"latent": 1.0, "log_mse": 0.0, "pyramid": 0.0, "log_energy": 0.0, "gan": 0.01}
        values |= {"degradations": STRENGTHS, "scales": (4,), "rank": 32, "energy_side": 4}
        values |= {"bands": 0.0}
        values |= {"checkpoint_every": 10**6, "out": str(self.out / f"run_{os.getpid()}")}
        return once(**{**values, **phases, **files, **changes})

    @staticmethod
    def phases(steps: int) -> tuple[Phase, ...]:
        """Of a training: the last third goes at a fifth of the rate.

        Else the end of the two players' swing would count for more than what is compared.
        """
        last = steps // 3
        return Phase(steps - last, 8, 5e-4), Phase(last, 8, 1e-4)

    def weights(self) -> str:
        """Eight digits that tell one set of the model's four files from another."""
        files = (*FILES.values(), LORA)
        told = "".join(_digest(str(self.model / name)) for name in files)
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def stage(self, recipe: Recipe, lora: Path | None = None) -> AdversarialStage:
        """The stage of a recipe, with the weights of a LoRA file if one is given."""
        stage = AdversarialStage(recipe, make_accelerator(recipe.engine, cpu=True))
        if lora is not None:
            put_weights(stage.generator, read_weights(lora), stage.ema.shadow)
        return stage

    def trained(self) -> AdversarialStage:
        """The small model as it is shipped."""
        lora = self.model / LORA
        weights = read_weights(lora)
        told = {"timestep": weights.timestep, "coefficient_timestep": weights.coefficient_timestep}
        recipe = self.recipe(0, rank=weights.rank, input_scale=weights.input_scale, **told)
        return self.stage(recipe, lora)

    def trial(self, seed: int, measure: Callable[..., dict] | None = None, **changes) -> dict:
        """What a trial gave; from its file, if it was run before.

        Args:
            seed: of the run.
            measure: of the trained stage; judge by default.
            changes: fields of the recipe.

        Returns:
            "curves": values of every step by name, with "psnr" by step; and what `measure` gives,
            nothing if the run diverged.
        """
        recipe = self.recipe(seed, **changes)
        told = {k: v for k, v in recipe.flat().items() if k != "out"}
        told |= {field: _digest(told[field]) for field in FILES}
        told["discriminator_weights"] = _digest(told["discriminator_weights"])
        told["measure"] = [(measure or judge).__qualname__, VERSION, CROP, COUNT, HELD_OUT_SEED]
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        file = self.out / f"{key}.json"
        if file.is_file():
            return json.loads(file.read_text("utf-8"))
        log.info("trial %s: seed %d, %s", key, seed, changes or "as it is")
        stage = self.stage(recipe)
        steps = sum(phase.steps for phase in recipe.schedule.adversarial)
        curves = Curves(stage, held_out("medium"), steps)
        for path in (Path(recipe.out) / "checkpoints").rglob("*.*"):
            path.unlink()  # of the trial before: each begins anew
        result: dict = {"curves": curves.values}
        try:
            run_stage(stage, recipe, stage.accelerator, curves)
            result |= (measure or judge)(stage)
        except FloatingPointError as error:  # what is asked, too, is whether this happens
            log.info("diverged: %s", error)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result), encoding="utf-8")
        return result


class Curves:
    """A loop.Watcher that keeps every value, and the PSNR of held-out pictures now and then."""

    def __init__(self, stage: AdversarialStage, batch: Batch, steps: int):
        self._stage, self._batch = stage, batch
        self._when = {round(steps * part) for part in LOOKS}
        self.values: dict[str, list[float]] = {"psnr": [], "psnr_step": []}
        self._look(0)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """See loop.Watcher."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(float(value))
        if step in self._when:
            self._look(step)

    def _look(self, step: int) -> None:
        self.values["psnr"].append(psnr(restore(self._stage, self._batch), self._batch.target))
        self.values["psnr_step"].append(step)

    def validate(self, step: int, stage) -> None:
        """See loop.Watcher."""

    def close(self) -> None:
        """See loop.Watcher."""


def held_out(preset: str, seed: int = 0, texture: str = "", count: int = 0) -> Batch:
    """Crops of dead leaves that no training sees, degraded by a preset of HYPIR Degrade.

    `count` pictures, COUNT if 0.
    """
    count = count or COUNT
    clean, degraded = _pictures(preset, HELD_OUT_SEED + seed, texture, count, CROP)
    return Batch(
        target=clean * 2 - 1,
        degraded=degraded * 2 - 1,
        captions=[texture] * count,
        numbers=list(range(count)),
        richness=measure_richness(clean.movedim(1, -1)),
    )


@lru_cache(maxsize=64)
def _pictures(preset: str, seed: int, texture: str, count: int, side: int) -> tuple[Tensor, Tensor]:
    """(clean, degraded), (B, 3, H, W) in [0, 1]."""
    crops = [LeafCanvas(seed, i, side, texture).crop(0) for i in range(count)]
    clean = torch.stack([torch.from_numpy(c.copy()) for c in crops]).movedim(-1, 1).float() / 255
    seeds = [derive_seed(seed, preset, i) for i in range(count)]
    return clean, degrade_and_enlarge(clean, 4, seeds, PRESETS[preset])


@torch.no_grad()
def restore(
    stage: AdversarialStage,
    batch: Batch,
    noise: float = 0.0,
    seed: int = 0,
    richness: Tensor | None = None,
) -> Tensor:
    """Pixels (B, 3, H, W) in [-1, 1] of the averaged weights, with the controls set."""
    with stage.accelerator.autocast(), stage.ema.applied():
        condition = stage._text.encode(batch.captions, batch.target.device)
        z = stage._encoder(batch.degraded).float()
        count = len(z)
        z = inject_noise(z, [noise] * count, [derive_seed(seed, "draw", i) for i in range(count)])
        asked = batch.richness if richness is None else richness
        x0 = stage.generator(z, condition.tokens, condition.pooled, asked)
        return stage.decode(x0)


def judge(stage: AdversarialStage, seed: int = 0) -> dict:
    """Measures of the restored held-out pictures.

    Returns:
        psnr and psnr_PRESET (dB), detail (Laplacian, to the target's), correlation (mean over the
        Haar bands), variety (how much detail differs from picture to picture of one degradation, to
        the targets'), and spread (deviation over seeds of noise, of 255 levels).
    """
    values: dict[str, float] = {}
    results, targets, varieties = [], [], []
    for preset in STRENGTHS:
        batch = held_out(preset, seed)
        result = restore(stage, batch)
        values[f"psnr_{preset}"] = psnr(result, batch.target)
        values[f"input_{preset}"] = psnr(batch.degraded, batch.target)
        results.append(to_image(result))
        targets.append(to_image(batch.target))
        deviations = [_log_detail(x[-1]).std() for x in (results, targets)]
        varieties.append(float(deviations[0] / deviations[1]))
    have, want = torch.cat(results), torch.cat(targets)
    values["psnr"] = sum(values[f"psnr_{p}"] for p in STRENGTHS) / len(STRENGTHS)
    values["detail"] = float(detail_ratio(have, want).mean())
    values["correlation"] = float(band_correlations(have, want).mean())
    values["variety"] = sum(varieties) / len(varieties)
    values["spread"] = spread(stage, held_out("medium", seed), NOISE)
    return values


def spread(stage: AdversarialStage, batch: Batch, noise: float) -> float:
    """Standard deviation over seeds of injected noise, in levels of 255."""
    draws = torch.stack([restore(stage, batch, noise, seed) for seed in range(DRAWS)])
    return float(draws.var(dim=0).mean().sqrt()) * 127.5


def psnr(result: Tensor, target: Tensor) -> float:
    """Of pixels in [-1, 1], in dB."""
    return float(-10 * torch.log10(F.mse_loss(result.clamp(-1, 1), target) / 4))


def mean_and_deviation(values: Sequence[float]) -> str:
    """For a table, with three decimals below 1, else two; "diverged" where a value is lacking."""
    tensor = torch.tensor(values, dtype=torch.float64)
    if not tensor.isfinite().all():
        return "diverged" if tensor.isnan().any() else "never"
    digits = 2 if tensor.abs().mean() >= 1 else 3
    spread = f" +- {tensor.std():.{digits}f}" if len(values) > 1 else ""
    return f"{tensor.mean():.{digits}f}{spread}"


def _log_detail(images: Tensor) -> Tensor:
    return laplacian_response(luma(images)).flatten(1).std(dim=1).clamp(min=1e-4).log2()


def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] if path else ""
