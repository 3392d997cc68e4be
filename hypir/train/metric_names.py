"""Every image metric that can be asked for by name: our own, pyiqa's and torchmetrics'.

A name may say whose it is, as in `pyiqa:niqe` or `torchmetrics:total_variation`. Without that our
own come first, then pyiqa's, then torchmetrics'.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .perceptual import Lpips, lpips_is_at_hand
from .validation import REFERENCE_METRICS

Measure = Callable[[Tensor, Tensor | None], float]
"""Value of an image (1, H, W, 3) in [0, 1], beside its clean one where there is one."""
NO_REFERENCE = ("niqe", "musiq", "maniqa", "clipiqa")
"""pyiqa's names of what is measured if nothing is asked for."""
LPIPS_ABSENT = "the VGG16 of torchvision is not at hand (--lpips-backbone FILE)"
PYIQA_ABSENT = "pyiqa is not installed (pip install pyiqa)"


class Metric(NamedTuple):
    """A metric by its name."""

    name: str
    needs_reference: bool
    """Whether it compares with a clean picture."""
    measure: Measure
    """The function."""


class NotMeasured(ValueError):
    """A metric that exists but cannot be had here; the message is the reason."""


def usual_names(with_reference: bool) -> tuple[str, ...]:
    """What is measured if nothing is asked for."""
    own = (*REFERENCE_METRICS, "lpips") if with_reference else ()
    return (*own, *(f"pyiqa:{name}" for name in NO_REFERENCE))


def find_metric(name: str, lpips_backbone: str = "") -> Metric:
    """The metric of a name.

    Args:
        name: as in the module's text.
        lpips_backbone: for `lpips`, see perceptual.Lpips.

    Raises:
        NotMeasured: if its library or its weights are not here.
        ValueError: if no library has the name.
    """
    origin, _, short = name.rpartition(":")
    if origin not in ("", "pyiqa", "torchmetrics"):
        raise ValueError(
            f"a metric's library must be pyiqa or torchmetrics, got {origin!r} in {name!r}"
        )
    if not origin and short in REFERENCE_METRICS:
        compare = REFERENCE_METRICS[short]
        return Metric(short, True, lambda image, clean: float(compare(image, clean)))
    if not origin and short == "lpips":
        if not lpips_is_at_hand(lpips_backbone):
            raise NotMeasured(LPIPS_ABSENT)
        net = Lpips(lpips_backbone)
        return Metric(short, True, lambda x, y: float(net(_planes(x) * 2 - 1, _planes(y) * 2 - 1)))
    if origin != "torchmetrics":
        found = _of_pyiqa(short, must=origin == "pyiqa")
        if found is not None:
            return found
    found = _of_torchmetrics(short)
    if found is None:
        if origin != "torchmetrics" and not _pyiqa_names():
            raise NotMeasured(f"torchmetrics has no such metric, and {PYIQA_ABSENT}")
        known = ", ".join([*REFERENCE_METRICS, "lpips", *_pyiqa_names(), *_torchmetrics_names()])
        raise ValueError(f"there is no metric {name!r}; known are {known}")
    return found


def _planes(image: Tensor) -> Tensor:
    return image.movedim(-1, 1)  # BHWC -> BCHW


def _pyiqa_names() -> list[str]:
    try:
        import pyiqa
    except ImportError:
        return []
    return pyiqa.list_models()


def _of_pyiqa(name: str, must: bool) -> Metric | None:
    known = _pyiqa_names()
    if not known and must:
        raise NotMeasured(PYIQA_ABSENT)
    if name not in known:
        if must:
            raise ValueError(f"pyiqa has no metric {name!r}; known are {', '.join(known)}")
        return None
    import pyiqa

    try:
        network = pyiqa.create_metric(name, device="cpu")
    except Exception as error:  # every hub and metric has its own
        raise NotMeasured(f"its weights cannot be loaded ({_one_line(error)})") from error
    if network.metric_mode == "FR":
        return Metric(name, True, lambda x, y: float(network(_planes(x), _planes(y))))
    return Metric(name, False, lambda x, _: float(network(_planes(x))))


def _torchmetrics_names() -> list[str]:
    from torchmetrics.functional import image

    return [name for name in image.__all__ if _takes(getattr(image, name)) is not None]


def _takes(function: Callable) -> bool | None:
    """Whether a function of torchmetrics compares two images; None if it is made of other parts."""
    parameters = inspect.signature(function).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.name != "data_range"]
    if required in (["preds", "target"], ["img1", "img2"]):
        return True
    return False if required == ["img"] and function.__name__ != "image_gradients" else None


def _of_torchmetrics(name: str) -> Metric | None:
    if name not in _torchmetrics_names():
        return None
    from torchmetrics.functional import image

    function = getattr(image, name)
    options = {}
    if "data_range" in inspect.signature(function).parameters:
        options["data_range"] = 1.0

    def measure(result: Tensor, clean: Tensor | None) -> float:
        pictures = [_planes(result)] if clean is None else [_planes(result), _planes(clean)]
        return float(function(*pictures, **options))

    if not _takes(function):
        return Metric(name, False, lambda x, _: measure(x, None))
    return Metric(name, True, measure)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
