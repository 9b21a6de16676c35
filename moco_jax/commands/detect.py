"""The command: python -m moco_jax detect --checkpoint=RUN --data=folder:PATH --out=DIR.

Writes DIR/detections.json, COCO's list of results with the names of file and class in each entry,
and DIR/pictures/, every image with its detections drawn. Exit codes: 0 done, 2 wrong input.
"""

import argparse
import dataclasses
import functools
import io
import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from moco_jax import files
from moco_jax import mesh as meshes
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.config import BACKENDS
from moco_jax.data import pipeline
from moco_jax.detection import batches, coco_ap, drawing, inference
from moco_jax.detection.annotated import AnnotatedSet
from moco_jax.detection.checkpointed import Trained, load
from moco_jax.detection.dense_task import normalized
from moco_jax.detection.detections import Detections
from moco_jax.detection.shown import SCORE
from moco_jax.detection.unannotated import open_unannotated
from moco_jax.errors import InputError

log = logging.getLogger(__name__)

FILE, PICTURES = "detections.json", "pictures"  # in --out
_QUALITY, _LOSSY = 90, ("JPEG", "WEBP", "AVIF")


def parser() -> argparse.ArgumentParser:
    """The flags."""
    p = argparse.ArgumentParser(prog="python -m moco_jax detect", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--checkpoint", required=True, help="workdir of a run of a detector")
    p.add_argument("--data", required=True, help="folder:PATH, images at any depth")
    p.add_argument("--out", type=pathlib.Path, required=True, help="folder to write into")
    p.add_argument("--score", type=float, default=SCORE,
                   help="from which on a detection is drawn; the file has all above "
                   f"{inference.final.SCORE}")  # fmt: skip
    p.add_argument("--batch_size", type=int, help="images over all devices; default: the run's")
    p.add_argument("--backend", choices=BACKENDS, default="auto")
    return p


def detections(
    trained: Trained, data: AnnotatedSet, batch_size: int, mesh: jax.sharding.Mesh
) -> Iterator[tuple[int, Detections]]:
    """The images that can be read, by index, each with its detections.

    Args:
      trained: the detector.
      data: N images.
      batch_size: over all devices.
      mesh: over them.
    """
    c, net = trained.config.copy_and_resolve_references(), trained.net
    c.data.update(eval_batch_size=batch_size, max_bad_share=1.0)
    mean, std = (tuple(x) for x in (c.data.mean, c.data.std))
    mean, std = (mean, std) if mean else pipeline.IMAGENET
    normalize = functools.partial(normalized, mean=mean, std=std)
    run = inference.make_detect(net, mesh, normalize, tuple(c.detection.test_proposals))
    variables = jax.device_put(trained.variables, meshes.replicated(mesh))
    with batches.eval_batches(data, trained.framing, c.data, **batches.sent(mesh)) as stream:
        yield from run(variables["params"], variables["batch_stats"], stream)


def entries(data: AnnotatedSet, index: int, found: Detections) -> Iterator[dict[str, Any]]:
    """COCO's results on an image, with `file_name` and `category_name`.

    Args:
      data: with the classes of the detector.
      index: of the image.
      found: on it.
    """
    own = dataclasses.replace(data, images=(data.images[index],))
    has = {"boxes": True, "masks": bool(found.masks), "keypoints": found.keypoints is not None}
    kinds = [coco_ap.written(own, [found], kind) for kind, there in has.items() if there]
    for number, parts in zip(found.classes.tolist(), zip(*kinds, strict=True), strict=True):
        names = {"file_name": own.images[0].name, "category_name": data.class_names[number]}
        yield names | {name: value for part in parts for name, value in part.items()}


def encoded(pixels: np.ndarray, name: str) -> bytes:
    """A picture as a file of that name has it: in the format of its end, else as JPEG.

    Args:
      pixels: uint8 (H, W, 3).
      name: of the file.
    """
    kind, buffer = (
        Image.registered_extensions().get(pathlib.Path(name).suffix.lower()),
        io.BytesIO(),
    )
    kind = kind if kind in Image.SAVE else "JPEG"
    quality = {"quality": _QUALITY} if kind in _LOSSY else {}
    Image.fromarray(pixels).save(buffer, kind, **quality)
    return buffer.getvalue()


def _draw(
    folder: pathlib.Path, data: AnnotatedSet, index: int, found: Detections, least: float
) -> None:
    """The picture of an image that was read before, under its own name."""
    image = data.images[index]
    pixels = drawing.draw(image.pixels(image.height * image.width), found, data.class_names, least)
    path = folder / image.name
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, encoded(pixels, image.name))


def _check(flags: argparse.Namespace) -> None:
    """Refuses flags before anything is computed.

    Raises:
      InputError: a number out of its range; a folder that cannot be written or holds the images.
    """
    if not 0 <= flags.score <= 1:
        raise InputError(f"--score={flags.score}: expected 0 to 1")
    if flags.batch_size is not None and flags.batch_size < 1:
        raise InputError(f"--batch_size={flags.batch_size}: expected at least 1")
    check_writable(flags.out / FILE)
    images = pathlib.Path(flags.data.partition(":")[2]).expanduser().resolve()
    out = flags.out.resolve()
    if out.is_relative_to(images) or images.is_relative_to(out):
        raise InputError(f"--out={flags.out} and {flags.data} lie in one another: pictures would "
                         f"come among the images; expected another folder")  # fmt: skip


def run(flags: argparse.Namespace) -> None:
    """Detects, draws and writes.

    Raises:
      InputError: a flag is wrong; a folder without images.
      MissingError: there is no such checkpoint or folder.
      CheckpointError: the checkpoint is no detector.
    """
    _check(flags)
    meshes.select_backend(flags.backend)
    trained = load(flags.checkpoint)
    mesh, d = meshes.make_mesh(), trained.config.data
    meshes.check_batch("--batch_size", flags.batch_size or mesh.size, mesh)
    data = open_unannotated(flags.data, d.max_pixels)
    data = dataclasses.replace(data, class_names=trained.classes, category_ids=trained.categories)
    whole = -(-len(data) // mesh.size) * mesh.size  # all images at once, if that is less
    size = min(flags.batch_size or d.eval_batch_size, whole)
    done, listed = 0, []
    for index, found in detections(trained, data, size, mesh):
        listed += entries(data, index, found)
        _draw(flags.out / PICTURES, data, index, found, flags.score)
        done += 1
    files.write(flags.out / FILE, json.dumps(listed))
    log.info("Wrote %s: %d detections on %d images, by %s; %d images could not be read", flags.out,
             len(listed), done, trained.name, len(data) - done)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the detections; returns the exit code."""
    flags = parser().parse_args(argv)
    return guarded(lambda: run(flags))
