"""What a report shows of a detector: predictions beside the truth, curves of precision and recall.

K classes
"""

import io
import logging
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from moco_jax.bucket import Place
from moco_jax.detection import drawing, voc_ap
from moco_jax.detection.annotated import AnnotatedSet
from moco_jax.detection.detections import Detections
from moco_jax.errors import BadImage
from moco_jax.report import rundir

log = logging.getLogger(__name__)

IMAGES = 6  # that are shown
SCORE = 0.5  # from which on a detection is drawn
_SIDE, _QUALITY = 560, 85  # pixels of the longer side of a picture, and of its JPEG


def save(workdir: Place, data: AnnotatedSet, found: Sequence[Detections], d: ConfigDict) -> None:
    """Keeps what the report shows of an evaluation; what goes wrong is one warning.

    Args:
      workdir: of the run.
      data: N annotated images.
      found: N detections, in the same order.
      d: `config.data`: max_pixels.
    """
    try:
        arrays = pictures(data, found, d.max_pixels) | curves(data, found)
        rundir.save_detections(workdir, arrays)
    except Exception as error:  # a report must never fail a run
        log.warning("No detections in the report: %s: %s", type(error).__name__, error)


def curves(data: AnnotatedSet, found: Sequence[Detections]) -> dict[str, np.ndarray]:
    """Precision of each class at recalls from 0 to 1: `precision` (K, 101), NaN without truth.

    Args:
      data: N annotated images.
      found: N detections, in the same order.
    """
    rows = [voc_ap.precision_at_recalls(data, found, i) for i in range(len(data.class_names))]
    return {
        "class_names": np.array(data.class_names, np.str_),
        "precision": np.array(rows, np.float32).reshape(len(rows), -1),
    }


def pictures(
    data: AnnotatedSet, found: Sequence[Detections], max_pixels: int
) -> dict[str, np.ndarray]:
    """A few images, evenly spaced: `truth0`, `found0` and so on, a JPEG's bytes; and `names`.

    Args:
      data: N annotated images.
      found: N detections, in the same order.
      max_pixels: of an image that is read; one that cannot be is left out.
    """
    arrays, names = {}, []
    for index in np.unique(np.linspace(0, len(data) - 1, min(IMAGES, len(data))).astype(int)):
        image = data.images[index]
        try:
            pixels = image.pixels(max_pixels)
        except BadImage:
            continue  # evaluation has said so
        both = (
            drawing.draw_truth(pixels, image, data.class_names),
            drawing.draw(pixels, found[index], data.class_names, SCORE),
        )
        for what, drawn in zip(("truth", "found"), both):
            arrays[f"{what}{len(names)}"] = _jpeg(drawn)
        names.append(image.name)
    return arrays | {"names": np.array(names, np.str_), "split": np.array(data.name)}


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return np.frombuffer(buffer.getvalue(), np.uint8)
