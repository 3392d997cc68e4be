"""From the host to the device without waiting for what the device has still to do."""

from collections.abc import Sequence

import torch
from torch import Tensor


def send(values: Tensor | Sequence[float], like: Tensor) -> Tensor:
    """Values on the device and in the precision of `like`."""
    tensor = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.float64)
    return tensor.to(like.dtype).to(like.device, non_blocking=True)
