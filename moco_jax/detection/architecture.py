"""The detector that a config describes."""

from collections.abc import Sequence

from moco_jax.config import ConfigDict
from moco_jax.detection.box_heads import BoxHead
from moco_jax.detection.dense_heads import KeypointHead, MaskHead
from moco_jax.detection.detector import C4Detector, Detector, PyramidDetector
from moco_jax.detection.framing import canvases_of
from moco_jax.errors import InputError
from moco_jax.models import resolve_dtype
from moco_jax.models.resnet import DEPTHS

NETWORKS = {f"resnet{depth}": depth for depth in DEPTHS}
_UNITS = {"fpn": 32, "c4": 16}  # pixels of which a canvas's sides are multiples


def make_detector(config: ConfigDict, classes: int, keypoints: int) -> Detector:
    """Builds the network; `config.detection`, `model.name`, `model.resnet` and `dtype` are read.

    Args:
      config: of the run.
      classes: K, without the background.
      keypoints: of an object, if any.

    Raises:
      InputError: values that do not fit each other.
    """
    d, resnet = config.detection, config.model.resnet
    depth = depth_of(config)
    _check(config, keypoints)
    shape = {
        "classes": classes, "depth": depth, "width": resnet.width,
        "dtype": resolve_dtype(config.model.dtype),
    }  # fmt: skip
    dtype = {"dtype": shape["dtype"]}
    if d.network == "c4":
        head = MaskHead(classes, 0, d.channels, **dtype) if d.masks else None
        return C4Detector(**shape, mask_head=head)
    points = KeypointHead(keypoints, (2 * d.channels,) * 8, norm=True, **dtype)
    return PyramidDetector(
        **shape,
        channels=d.channels,
        box_head=BoxHead(features=d.features, **dtype),
        mask_head=MaskHead(classes, 4, d.channels, norm=True, **dtype) if d.masks else None,
        keypoint_head=points if d.keypoints else None,
    )


def depth_of(config: ConfigDict) -> int:
    """Layers of the ResNet that a config names.

    Args:
      config: of the run.

    Raises:
      InputError: it names another network, or leaves it without channels.
    """
    name, width = config.model.name, config.model.resnet.width
    if name not in NETWORKS:
        raise InputError(f"model.name={name!r}: expected one of {', '.join(NETWORKS)} with "
                         f"protocol={config.protocol!r}")  # fmt: skip
    if round(64 * width) < 1:
        raise InputError(f"model.resnet.width={width} leaves no channel; nearest: {1 / 64}")
    return NETWORKS[name]


def _check(config: ConfigDict, keypoints: int) -> None:
    d = config.detection
    unit = _UNITS[d.network]
    for number, canvas in enumerate(canvases_of(d)):
        if any(side % unit for side in canvas):
            name = "detection.more_canvases" if number else "detection.canvas"
            near = tuple(max(round(side / unit), 1) * unit for side in canvas)
            raise InputError(f"{name}={canvas}: expected multiples of {unit} with "
                             f"detection.network={d.network!r}; nearest: {near}")  # fmt: skip
    if d.keypoints and d.network == "c4":
        raise InputError("detection.keypoints=True: expected False with detection.network='c4'")
    if d.keypoints and not keypoints:
        raise InputError("detection.keypoints=True, and the training images have no keypoints")


def renamed(network: str, name: str) -> str:
    """What an array of a ResNet's backbone is called in the detector.

    Args:
      network: `detection.network`.
      name: of the array: '.../backbone/layer4_0/conv1/kernel'.
    """
    return name.replace("/backbone/layer4_", "/last_stage/layer4_") if network == "c4" else name


def of_resnet(network: str) -> Sequence[str]:
    """How the names of the arrays that a ResNet's backbone has begin in the detector's state.

    Args:
      network: `detection.network`.
    """
    places = ("backbone/", *(("last_stage/layer4_",) if network == "c4" else ()))
    return tuple(f"{kind}/{place}" for kind in ("params", "method_state/stats") for place in places)


def layers_of(network: str, depth: int) -> tuple[str, ...]:
    """Paths, in the parameters, of the ResNet's layers from the first to the last.

    Args:
      network: `detection.network`.
      depth: layers of the ResNet.
    """
    stages, _ = DEPTHS[depth]
    blocks = (f"layer{s}_{i}" for s, count in enumerate(stages, 1) for i in range(count))
    paths = (f"x/backbone/{name}" for name in ("conv1", *blocks))
    return tuple(renamed(network, path).removeprefix("x/") for path in paths)
