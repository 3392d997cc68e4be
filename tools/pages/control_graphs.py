"""Graphs that vary one control of the pack, and their results in the host: see controls.py.

    lab = Lab(server, read_weights(lora), {"HYPIRLoadLora": {"lora_name": lora.name}}, photo)
    results = lab.run([Setting(noise=strength, variants=4) for strength in (0.0, 0.2)])

The loaders, the text and the step's nodes come from a saved workflow, so models are loaded in the
same way. Numbers are computed from latents that the host saved where its 8-bit images would be too
coarse.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from hypir.weights import HypirWeights
from tools.host.server import REQUEST_SECONDS, HostError, Prompt, Server, wait_until
from tools.workflows.prompt import WORKFLOW, build_prompt, find, insert_encoder

DEGRADE_SEED = 0
SIDE_MULTIPLE = (
    16  # multiple for the photo's sides, so that reducing and enlarging restores its size
)

Link = list  # [node id, output number], as in the host's API


@dataclass(frozen=True)
class Setting:
    """Settings of one restoration; the defaults are those of the nodes."""

    noise: float = 0.0
    variants: int = 1
    noise_left_half_only: bool = False
    left_half_only: bool = False
    composite: bool = False
    lora: float = 1.0
    timestep: int = -1
    richness: float | None = None
    """Richness for the token of HYPIR Conditioning; None keeps the workflow's text."""
    match: float | None = None
    """Richness for HYPIR Match Texture, after HYPIR Decode."""
    match_photo: bool = False
    """Give HYPIR Match Texture the original photo instead of a restored image."""
    posterior_seed: int | None = None
    tile_size: int = 0
    """Tile size for encoding, step and decoding, in pixels; 0 = planned."""


@dataclass(frozen=True)
class Result:
    """The host's results; latents are in the model's unit, in which noise has its strength."""

    pictures: np.ndarray
    """(N, H, W, 3) uint8."""
    encoded: Tensor
    """(n, C, h, w): the output of HYPIR Encode."""
    given: Tensor
    """(N, C, h, w): the same after HYPIR Inject Noise: the input of HYPIR Restore."""
    restored: Tensor
    """(N, C, h, w): the output of HYPIR Restore."""
    richness: float
    """The images' richness, measured by HYPIR Measure Texture."""


class Graph:
    """A prompt under construction; equal nodes are merged."""

    def __init__(self, prompt: Prompt, known: dict[str, Any]) -> None:
        self.prompt, self.known = dict(prompt), known

    def add(self, class_type: str, **inputs: Any) -> Link:
        """Add a node, with the schema's defaults for missing inputs; returns its first output."""
        for name, (_, *options) in self.known[class_type]["input"].get("required", {}).items():
            if options and "default" in options[0]:
                inputs.setdefault(name, options[0]["default"])
        node = {"class_type": class_type, "inputs": inputs}
        for name, other in self.prompt.items():
            if other == node:
                return [name, 0]
        name = f"{class_type} {len(self.prompt)}"
        self.prompt[name] = node
        return [name, 0]


def execute(server: Server, prompt: Prompt) -> dict[str, dict[str, Any]]:
    """Run a prompt; returns the results of its output nodes by node id.

    Raises:
        HostError: with the message of the node that refused or failed.
    """
    with server.watch() as watch:
        prompt_id = watch.queue(prompt)
        for _ in watch.progress():
            pass
    wait_until(lambda: bool(server.history(prompt_id)), REQUEST_SECONDS, "no result was filed")
    return server.history(prompt_id)["outputs"]


class Lab:
    """One set of weights, and one photo, degraded by HYPIR Degrade and enlarged by the host."""

    def __init__(
        self,
        server: Server,
        weights: HypirWeights,
        names: dict[str, dict[str, Any]],
        photo: np.ndarray,
        scale: int = 2,
        workflow: Path = WORKFLOW,
        encoder_name: str = "",
        without_clip: bool = False,
        preset: str = "medium",
        seed: int = DEGRADE_SEED,
    ) -> None:
        """Upload the photo, and take the loaders from the workflow.

        Args:
            server: a host with the pack.
            weights: the file that HYPIR Load Lora loads, read.
            names: inputs by class of node, to set in the workflow: file names above all.
            photo: (H, W, 3) uint8; cut to multiples of 16 px.
            scale: reduction factor of the degraded image.
            workflow: as saved by the page, with one of each of our nodes.
            encoder_name: a trained encoder for HYPIR Encode, if any.
            preset, seed: of HYPIR Degrade.
            without_clip: give the step the zero token instead of the workflow's text.
        """
        self.server, self.weights, self.prior = server, weights, weights.prior
        self.known = server.object_info()
        self.workflow = build_prompt(server, workflow)
        for class_type, values in names.items():
            for node in self.workflow.values():
                if node["class_type"] == class_type:
                    node["inputs"].update(values)
        if encoder_name:
            insert_encoder(self.workflow, encoder_name)
        if without_clip:
            restore = self.workflow[find(self.workflow, "HYPIRRestore")]["inputs"]
            inputs = {"model": restore["model"], "text": "", "texture": "off"}
            self.workflow["text"] = {"class_type": "HYPIRConditioning", "inputs": inputs}
            restore["positive"] = ["text", 0]
        self.method = self.inputs("ImageScaleBy")["upscale_method"]
        height, width = (side - side % SIDE_MULTIPLE for side in photo.shape[:2])
        self.photo, self.scale = photo[:height, :width], scale
        self.degrading = {"preset": preset, "scale": scale, "seed": seed}
        self.height, self.width = height, width
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "photo.png"
            Image.fromarray(self.photo).save(file)
            self.photo_name = server.upload_image(file)

    # ------------------------------------------------------------------------------ the graph

    def inputs(self, class_type: str) -> dict[str, Any]:
        return dict(self.workflow[find(self.workflow, class_type)]["inputs"])

    def loaders(self) -> Prompt:
        """The workflow's nodes before the model, the text and the autoencoder."""
        restore, encode = self.inputs("HYPIRRestore"), self.inputs("HYPIREncode")
        links = [restore["model"], restore["positive"], encode["vae"]]
        links.append(self.inputs("HYPIRDecode")["vae"])
        kept: Prompt = {}
        while links:
            name = links.pop()[0]
            kept[name] = self.workflow[name]
            links += [link for link in kept[name]["inputs"].values() if isinstance(link, list)]
        return kept

    def graph(self) -> Graph:
        return Graph(self.loaders(), self.known)

    def enlarged(self, graph: Graph) -> Link:
        """The degraded photo at the original size."""
        photo = graph.add("LoadImage", image=self.photo_name)
        small = graph.add("HYPIRDegrade", image=photo, **self.degrading)
        return graph.add(
            "ImageScaleBy", image=small, upscale_method=self.method, scale_by=self.scale
        )

    def left_half(self, graph: Graph) -> Link:
        size = {"height": self.height, "width": self.width}
        whole = graph.add("SolidMask", value=0.0, **size)
        half = graph.add("SolidMask", value=1.0, **(size | {"width": self.width // 2}))
        return graph.add("MaskComposite", destination=whole, source=half, x=0, y=0, operation="add")

    def _model(self, graph: Graph, strength: float) -> Link:
        link = self.inputs("HYPIRRestore")["model"]
        loader = self.workflow[link[0]]
        if loader["class_type"] != "HYPIRLoadLora":
            raise ValueError(
                "the workflow must connect Load HYPIR LoRA directly to HYPIR Restore, got "
                f"{loader['class_type']}; put other nodes before it"
            )
        return graph.add("HYPIRLoadLora", **(loader["inputs"] | {"strength": strength}))

    def _text(self, graph: Graph, model: Link, richness: float | None) -> Link:
        positive = self.inputs("HYPIRRestore")["positive"]
        if richness is None:
            return positive
        text = self.workflow[positive[0]]["inputs"]
        inputs = {key: text[key] for key in ("clip", "text") if key in text}
        inputs |= {"texture": "set", "texture.richness": richness}
        return graph.add("HYPIRConditioning", model=model, **inputs)

    def _add(self, graph: Graph, setting: Setting) -> dict[str, Link]:
        """Add the nodes of one setting; returns links to everything in Result."""
        image, model = self.enlarged(graph), self._model(graph, setting.lora)
        tiles = {"tile_size": setting.tile_size}
        encode = self.inputs("HYPIREncode") | {"image": image, **tiles}
        if setting.posterior_seed is not None:
            encode |= {"posterior": "sample", "seed": setting.posterior_seed}
        encoded = latent = graph.add("HYPIREncode", **encode)
        if setting.noise or setting.variants > 1:
            noise = {"strength": setting.noise, "seed": 0, "variants": setting.variants}
            if setting.noise_left_half_only:
                noise["mask"] = self.left_half(graph)
            latent = graph.add("HYPIRInjectNoise", model=model, samples=latent, **noise)
        given = latent
        if setting.left_half_only:
            mask = self.left_half(graph)
            latent = graph.add("SetLatentNoiseMask", samples=latent, mask=mask)
        positive = self._text(graph, model, setting.richness)
        restore = {"samples": latent, "model": model, "positive": positive}
        restore = self.inputs("HYPIRRestore") | restore | {"timestep": setting.timestep, **tiles}
        restored = graph.add("HYPIRRestore", **restore)
        decode = self.inputs("HYPIRDecode") | {"samples": restored, "reference": image, **tiles}
        picture = graph.add("HYPIRDecode", **decode)
        if setting.match is not None:
            if setting.match_photo:
                picture = graph.add("LoadImage", image=self.photo_name)
            match = {"image": picture, "source": image, "richness": setting.match}
            picture = graph.add("HYPIRMatchTexture", **match)
        if setting.composite:
            picture = graph.add(
                "ImageCompositeMasked",
                **{"destination": image, "source": picture, "mask": self.left_half(graph)},
            )
        richness = graph.add("HYPIRMeasureTexture", image=picture)
        return {
            "pictures": graph.add("SaveImage", images=picture),
            "encoded": graph.add("SaveLatent", samples=encoded),
            "given": graph.add("SaveLatent", samples=given),
            "restored": graph.add("SaveLatent", samples=restored),
            "richness": graph.add("PreviewAny", source=richness),
        }

    # ------------------------------------------------------------------------------ running it

    def run(self, settings: Sequence[Setting]) -> list[Result]:
        """Restore with each setting, in one prompt.

        Raises:
            HostError: with the message of the node that refused or failed.
        """
        graph = self.graph()
        links = [self._add(graph, setting) for setting in settings]
        outputs = execute(self.server, graph.prompt)

        def of(link: Link) -> dict[str, Any]:
            if link[0] not in outputs:
                raise HostError(f"the host gave nothing for {link[0]}")
            return outputs[link[0]]

        return [
            Result(
                pictures=self._pictures(of(link["pictures"])),
                **{name: self._latent(of(link[name])) for name in ("encoded", "given", "restored")},
                richness=float(of(link["richness"])["text"][0]),
            )
            for link in links
        ]

    def degraded(self) -> tuple[np.ndarray, float]:
        """The enlarged degraded image (H, W, 3) uint8, and its measured richness."""
        graph = self.graph()
        image = self.enlarged(graph)
        saved = graph.add("SaveImage", images=image)
        shown = graph.add("PreviewAny", source=graph.add("HYPIRMeasureTexture", image=image))
        outputs = execute(self.server, graph.prompt)
        return self._pictures(outputs[saved[0]])[0], float(outputs[shown[0]]["text"][0])

    def network_output(self, result: Result) -> Tensor:
        """The network's output, computed from the input and output of HYPIR Restore.

        Only valid for the plain step: the weights' own timesteps, no mask.
        """
        weights = self.weights
        level = self.prior.level(weights.timestep)
        seen = weights.input_scale * result.given
        return self.prior.prediction.output(seen, result.restored, level)

    def _file(self, item: dict[str, str]) -> Path:
        return self.server.base / item["type"] / item["subfolder"] / item["filename"]

    def _pictures(self, output: dict[str, Any]) -> np.ndarray:
        files = [self._file(item) for item in output["images"]]
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])

    def _latent(self, output: dict[str, Any]) -> Tensor:
        (item,) = output["latents"]
        latent = load_file(self._file(item))["latent_tensor"].float()
        return (latent - self.prior.latent_shift) * self.prior.latent_scale


def spread(batch: Tensor) -> float:
    """Standard deviation over the items (N, ...), as the root of the mean variance."""
    return float(batch.float().var(dim=0).mean().sqrt())


def distance(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference."""
    return float((one - other).square().mean().sqrt())


def right_difference(one: Tensor, other: Tensor) -> float:
    """The largest difference of two latents in their right half, where left_half is 0."""
    return float((one - other)[..., one.shape[-1] // 2 :].abs().max())
