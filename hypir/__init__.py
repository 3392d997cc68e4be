"""HYPIR image restoration in one step of a pretrained diffusion model.

Pure functions on tensors: this package knows neither the host (ComfyUI) nor diffusers.
`hypir.train` trains the weights; `nodes/` exposes the functions to the host.

Source: "Harnessing Diffusion-Yielded Score Priors for Image Restoration", arXiv 2507.20590, 2025.
"""

__version__ = "0.1.0"
