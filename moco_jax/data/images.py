"""Images as a user holds them (arrays, PIL images, paths), made ready for an encoder on the host.

N images, H W of an image, S output size, C channels
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from moco_jax.data import decoding, device_crop, host_crop
from moco_jax.data.listing import read_file
from moco_jax.errors import BadImage, InputError

ImageLike = np.ndarray | Image.Image | str | os.PathLike


def as_list(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    """One image, an array (N, H, W, C) or a sequence of images, as a sequence of images.

    Raises:
      InputError: an array of another number of axes.
    """
    if isinstance(images, str | os.PathLike | Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        if images.ndim not in (2, 3, 4):
            raise InputError(f"an array of shape {images.shape}; expected (H, W, C), (N, H, W, C)")
        return images if images.ndim == 4 else [images]
    return list(images)


def prepare(image: ImageLike, size: int, share: float, channels: int) -> np.ndarray:
    """Evaluation's view of an image.

    Files and PIL images in colour are resized and cropped as those of folders are; arrays, and
    what is made gray, as arrays are, but on the host.

    Args:
      image: uint8 array (H, W) or (H, W, C), PIL image or path.
      size: S, pixels.
      share: of the short side that is seen, in (0, 1].
      channels: C; files and PIL images are made gray where it is 1.

    Returns:
      float32 (S, S, C) in [0, 1].

    Raises:
      InputError: no image, no uint8, or other than C channels.
    """
    if isinstance(image, np.ndarray):
        return _center(_checked(image, channels), size, share)
    if channels not in (1, 3):
        raise InputError(f"the encoder takes {channels} channels: expected an array, not {image!r}")
    if isinstance(image, str | os.PathLike):
        image = _read(image, channels)
    elif not isinstance(image, Image.Image):
        raise InputError(f"expected an array, a PIL image or a path, not {type(image).__name__}")
    if channels == 1:
        return _center(np.asarray(image.convert("L"))[..., None], size, share)
    image = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    return host_crop.center_crop(image, size, share).astype(np.float32) / 255


def _checked(image: np.ndarray, channels: int) -> np.ndarray:
    if image.dtype != np.uint8:
        raise InputError(f"an image is {image.dtype}; expected uint8 (0 to 255)")
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or 0 in image.shape or image.shape[-1] != channels:
        raise InputError(f"an image has shape {image.shape}; expected (H, W, {channels})")
    return image


def read_array(path: str | os.PathLike) -> np.ndarray:
    """A file as the folder source decodes it: uint8 (H, W, 3).

    Raises:
      BadImage: it is no whole image.
      OSError: it cannot be read.
    """
    encoded = read_file(path)
    try:
        return decoding.decode(encoded)
    except BadImage as error:
        raise BadImage(f"{path}: {error}") from error


def _read(path: str | os.PathLike, channels: int) -> np.ndarray | Image.Image:
    """A file as the folder source decodes it, or, to be made gray, as PIL does."""
    image = read_array(path)
    return Image.fromarray(image) if channels == 1 else image


@functools.lru_cache(maxsize=1024)
def _box(height: int, width: int, share: float) -> tuple[int, ...]:
    return tuple(np.asarray(device_crop.center_box(height, width, share)).tolist())


def _center(image: np.ndarray, size: int, share: float) -> np.ndarray:
    """`device_crop.crop_resize` of the central box by PIL, whose filter is the same."""
    top, left, height, width = _box(*image.shape[:2], share)
    image = image[top : top + height, left : left + width].astype(np.float32)
    if (height, width) != (size, size):
        planes = (Image.fromarray(image[..., c]) for c in range(image.shape[-1]))
        resized = (plane.resize((size, size), Image.Resampling.BILINEAR) for plane in planes)
        image = np.stack([np.asarray(plane) for plane in resized], -1)
    return image / 255
