"""Pictures as a page holds them."""

import base64
import io

import numpy as np
from PIL import Image

_SMALL = 64  # pixels; images up to this side stay as they are, larger ones become JPEG
_LARGEST = 224  # pixels of a picture in the page


def data_uri(image: np.ndarray) -> str:
    """An image, uint8 (H, W, 3), as what <img src> takes: PNG where small, else JPEG."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    small = max(picture.size) <= _SMALL
    picture.thumbnail((_LARGEST, _LARGEST))
    picture.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 90}))
    return _uri("png" if small else "jpeg", buffer.getvalue())


def jpeg_uri(content: bytes) -> str:
    """A JPEG's bytes as what <img src> takes."""
    return _uri("jpeg", content)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
