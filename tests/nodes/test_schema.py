"""Node ids, input names and output types are a contract with saved workflows."""

from __future__ import annotations

import json
from pathlib import Path

SNAPSHOT = Path(__file__).parents[1] / "data" / "node_schemas.json"

# The contract of the first release, written by hand: id -> (inputs, outputs).
CONTRACT = {
    "HYPIRLoadLora": ("model lora_name strength", "MODEL"),
    "HYPIRLoadEncoder": ("vae encoder_name", "VAE"),
    "HYPIREncode": ("image vae tile_size overlap posterior seed", "LATENT"),
    "HYPIRConditioning": ("model clip text texture", "CONDITIONING"),
    "HYPIRInjectNoise": ("model samples strength seed variants mask", "LATENT"),
    "HYPIRRestore": (
        "model positive samples timestep coefficient_timestep tile_size overlap tile_batch",
        "LATENT",
    ),
    "HYPIRDecode": (
        "samples vae reference color_fix color_strength tile_size overlap fidelity",
        "IMAGE",
    ),
    "HYPIRSampler": (
        "model timestep coefficient_timestep tile_size overlap tile_batch",
        "SAMPLER SIGMAS",
    ),
    "HYPIRMeasureTexture": ("image mask", "FLOAT MASK"),
    "HYPIRMatchTexture": ("image source richness", "IMAGE"),
    "HYPIRMatchColor": ("image reference method strength", "IMAGE"),
    "HYPIRPlan": ("model vae image width height", "IMAGE STRING"),
    "HYPIRRestoreVideo": (
        "video model positive vae scale noise seed color_fix frames",
        "VIDEO",
    ),
    "HYPIRDegrade": ("image preset scale seed", "IMAGE"),
}

FOLDERS = {"lora_name", "encoder_name"}


def schema_of(node) -> dict:
    info = node.GET_NODE_INFO_V1()
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input"].get(group, {}).items():
            options = dict(rest[0]) if rest else {}
            if name in FOLDERS:
                options.pop("options", None)
                kind = "COMBO"
            inputs[name] = {"group": group, "type": kind, **options}
    return {
        "display_name": info["display_name"],
        "category": info["category"],
        "description": info["description"],
        "inputs": inputs,
        "outputs": info["output"],
    }


def test_ids_inputs_and_outputs_are_those_of_the_contract(host):
    assert set(host.nodes) == set(CONTRACT)
    for name, (inputs, outputs) in CONTRACT.items():
        schema = schema_of(host.nodes[name])
        assert set(schema["inputs"]) == set(inputs.split()), name
        assert list(schema["outputs"]) == outputs.split(), name


def test_schemas_are_those_of_the_snapshot(host, update):
    found = {name: schema_of(host.nodes[name]) for name in sorted(host.nodes)}
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if update:
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "run `nox -s update` and name the change in CHANGELOG.md"


def test_every_node_and_every_input_explains_itself(host):
    for name, node in host.nodes.items():
        schema = schema_of(node)
        assert schema["category"] == "HYPIR"
        assert len(schema["description"]) > 40, name
        for key, options in schema["inputs"].items():
            assert len(options.get("tooltip", "")) > 15, f"{name}.{key}"
