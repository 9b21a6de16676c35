"""A detector from the workdir of the run that trained it."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from moco_jax import convert
from moco_jax.detection.architecture import make_detector
from moco_jax.detection.detector import Detector
from moco_jax.detection.framing import Framing, framing_of_test
from moco_jax.errors import CheckpointError

_PARTS = {"params": "params/", "batch_stats": "method_state/stats/"}
_LAST, _POINTS = "params/predictor/classes/kernel", "params/keypoint_head/deconv/kernel"


class Trained(NamedTuple):
    """A detector and what belongs to it.

    Attributes:
      name: what errors call it: workdir and step.
      config: of the run.
      net: the network.
      variables: its parameters and BatchNorm statistics.
      classes: their names, K.
      categories: the numbers that COCO's file has for them; 1 to K where there is none.
    """

    name: str
    config: ConfigDict
    net: Detector
    variables: dict[str, Any]
    classes: tuple[str, ...]
    categories: tuple[int, ...]

    @property
    def framing(self) -> Framing:
        """How images come onto the canvas, as in the run's own test."""
        return framing_of_test(self.config.detection)


def load(path: str | os.PathLike) -> Trained:
    """The newest step of a workdir, or the step that `path` is; also in a bucket.

    The statistics of BatchNorm are the running ones.

    Raises:
      MissingError: there is nothing at `path`.
      CheckpointError: it is damaged, no detector, or holds a NaN.
    """
    contents = convert.read(path)
    if contents.format != "ours" or contents.config.protocol != "detection":
        what = f"a {contents.config.protocol} run" if contents.format == "ours" else "a file"
        raise CheckpointError(
            f"{path} holds no detector: it is {what} of {contents.config.model.name}; expected the "
            f"workdir of a run with protocol='detection', such as those of configs/detection.py"
        )
    _check_finite(str(path), contents.leaves)
    classes = contents.leaves[_LAST].shape[-1] - 1
    points = contents.leaves[_POINTS].shape[-2] if _POINTS in contents.leaves else 0
    return Trained(
        name=f"{path}, step {contents.position}",
        config=contents.config,
        net=make_detector(contents.config, classes, points),
        variables={name: _tree(contents.leaves, below) for name, below in _PARTS.items()},
        classes=contents.classes or tuple(f"class {i}" for i in range(classes)),
        categories=contents.categories or tuple(range(1, classes + 1)),
    )


def _check_finite(path: str, leaves: Mapping[str, np.ndarray]) -> None:
    for name, leaf in leaves.items():
        if name.startswith(tuple(_PARTS.values())) and not np.isfinite(leaf).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; take an earlier step")


def _tree(leaves: Mapping[str, np.ndarray], below: str) -> dict[str, Any]:
    flat = {n.removeprefix(below): leaf for n, leaf in leaves.items() if n.startswith(below)}
    return traverse_util.unflatten_dict(flat, sep="/")
