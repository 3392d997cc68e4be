"""The nodes: a schema and one call each. The mathematics is in hypir/, comfy internals in host/."""

from comfy_api.latest import ComfyExtension, io

from .color import HYPIRMatchColor
from .degrade import HYPIRDegrade
from .host.files import register_embedded_models
from .latent import HYPIRDecode, HYPIREncode, HYPIRInjectNoise
from .load import HYPIRLoadEncoder, HYPIRLoadLora
from .plan import HYPIRPlan
from .restore import HYPIRConditioning, HYPIRRestore, HYPIRSampler
from .texture import HYPIRMatchTexture, HYPIRMeasureTexture
from .video import HYPIRRestoreVideo


class HYPIRExtension(ComfyExtension):
    """All nodes of the pack, and its small model."""

    async def on_load(self) -> None:
        """Called by the host once, before it lists the nodes."""
        register_embedded_models()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes, in the order of a restoration."""
        return [
            HYPIRLoadLora,
            HYPIRLoadEncoder,
            HYPIREncode,
            HYPIRConditioning,
            HYPIRInjectNoise,
            HYPIRRestore,
            HYPIRSampler,
            HYPIRDecode,
            HYPIRMeasureTexture,
            HYPIRMatchTexture,
            HYPIRMatchColor,
            HYPIRDegrade,
            HYPIRPlan,
            HYPIRRestoreVideo,
        ]
