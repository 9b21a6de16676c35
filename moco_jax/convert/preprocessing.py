"""How images are prepared for an encoder: what exports say of it, and what is read of it."""

import logging
from typing import Any

from moco_jax.config import ConfigDict
from moco_jax.data import pipeline

log = logging.getLogger(__name__)

# What says how images are prepared, for transformers and for timm.
FILE = "preprocessor_config.json"
_MEAN_AND_STD = (("image_mean", "image_std"), ("mean", "std"))
_BILINEAR = 2  # PIL's number of the filter


def said_of(config: ConfigDict) -> dict[str, Any]:
    """Image size in pixels, the central share that is seen, mean and std, as JSON.

    Without mean and std the config stands for ImageNet's.
    """
    d = config.data
    mean, std = (d.mean, d.std) if d.mean else pipeline.IMAGENET
    return {
        "image_size": int(d.image_size), "crop_pct": float(d.eval_crop_share),
        "mean": list(map(float, mean)), "std": list(map(float, std)),
    }  # fmt: skip


def for_transformers(config: ConfigDict) -> dict[str, Any]:
    """preprocessor_config.json: the short side is resized to size / crop_pct, the centre is taken.

    Of the processors of transformers it is ConvNext's that has a share of the image.
    """
    said = said_of(config)
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True, "size": {"shortest_edge": said["image_size"]},
        "crop_pct": said["crop_pct"], "resample": _BILINEAR,
        "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": said["mean"], "image_std": said["std"],
    }  # fmt: skip


def apply(said: dict[str, Any], config: ConfigDict, where: str) -> None:
    """Takes mean, std, the central share and, for a ResNet, the image size into a config.

    A Vision Transformer's size is that of its grid of positions. What is not well formed is passed
    over.

    Args:
      said: JSON of `said_of`, of a preprocessor_config.json, or of timm's `pretrained_cfg`.
      config: of the encoder; it is changed.
      where: who says so, for the log.
    """
    d = config.data
    for names in _MEAN_AND_STD:
        mean, std = (_numbers(said.get(name)) for name in names)
        if mean and std and len(mean) == len(std) and min(std) > 0:
            d.mean, d.std = mean, std
            log.info("Images: mean %s, std %s, as %s says", d.mean, d.std, where)
    share = said.get("crop_pct")
    if isinstance(share, int | float) and 0 < share <= 1:
        d.eval_crop_share = float(share)
    size = said.get("image_size")
    if size is None and isinstance(said.get("size"), dict):
        size = said["size"].get("shortest_edge", said["size"].get("height"))
    if type(size) is int and size > 0 and config.model.name.startswith("resnet"):
        d.image_size = size


def _numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(isinstance(n, int | float) for n in value):
        return ()
    return tuple(map(float, value))
