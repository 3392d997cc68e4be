"""HYPIR for ComfyUI: one-step image restoration on the host's own models."""

WEB_DIRECTORY = "web"
"""Holds the help pages; no script."""


async def comfy_entrypoint():
    """The host's door: the extension with all nodes."""
    from .nodes import HYPIRExtension

    return HYPIRExtension()
