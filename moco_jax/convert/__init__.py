"""Checkpoints of other programs, read and written: `python -m moco_jax convert SRC DST`.

`docs/convert.md` lists the formats. No pickle is executed, and PyTorch is not needed.
"""

import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping

from moco_jax import places
from moco_jax.config import choose
from moco_jax.convert.arch import arch_of
from moco_jax.convert.contents import ROLES, TARGET, Contents, select
from moco_jax.convert.fetching import fetched
from moco_jax.convert.formats import FORMATS
from moco_jax.convert.formats import read as _read
from moco_jax.convert.hints import OPTIONS, Hints
from moco_jax.convert.position import resize
from moco_jax.errors import InputError
from moco_jax.models.vit import NORM_EPS

log = logging.getLogger(__name__)


def read(
    path: str | os.PathLike,
    *,
    arch: str | None = None,
    heads: int | None = None,
    encoder: str | None = None,
    partial: bool = False,
    options: Mapping[str, str] = OPTIONS,
) -> Contents:
    """Reads a checkpoint of any format, which its content tells, and says what it is.

    Args:
      path: a file, a folder of transformers or timm, a workdir or one of its steps; also gs://...
        or s3://..., of which what is needed is fetched.
      arch: the architecture, where the file leaves it open: resnet50, vit_small, vit_conv_base ...
      heads: attention heads of a ViT, where the file leaves them open.
      encoder: which of several encoders is meant: 'query' (also 'student'), 'key' (also 'momentum',
        'teacher', 'ema', 'target'), or its name in the file.
      options: how messages call these arguments, see `hints.OPTIONS`.
      partial: take what fits and list what does not, in place of an error.

    Raises:
      MissingError: there is nothing at `path`.
      CheckpointError: it is none of the formats, damaged, ambiguous or incomplete.
    """
    hints = Hints(arch=arch, heads=heads, encoder=encoder, partial=partial, options=options)
    with fetched(path) as here:
        contents = _read(here, hints)
    log.info("Read %s: %s", path, describe(contents))
    return contents


def write(
    path: str | os.PathLike,
    contents: Contents,
    to: str | None = None,
    *,
    encoder: str | None = None,
    image_size: int | None = None,
) -> None:
    """Writes a checkpoint; it appears under its name when it is complete.

    Args:
      path: the new file or folder.
      contents: what `read` gave.
      to: key of FORMATS; None: what the end of `path` tells (see `format_of_path`).
      encoder: which encoder a format of one encoder gets, 'query' (None) or 'key', or what others
        call them: 'student', 'teacher', 'ema' ...
      image_size: pixels, for whose grid of patches the position embedding is made; only for
        formats of one encoder.

    Raises:
      InputError: the path exists, or an argument does not fit the format.
      CheckpointError: the format cannot hold these contents.
    """
    path = places.local("path", path)
    if path.exists():
        raise InputError(f"{path} exists; it is not overwritten")
    to = format_of_path(path, contents) if to is None else to
    form = FORMATS[choose("to", to, [name for name, f in FORMATS.items() if f.save])]
    if form.whole and (encoder or image_size):
        raise InputError(f"encoder and image_size are for formats of one encoder, not for {to!r}")
    if not form.whole:
        if encoder:
            choose("encoder", encoder, ROLES)
        contents = select(contents, encoder)
        if image_size:
            contents = resize(contents, image_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = pathlib.Path(tempfile.mkdtemp(prefix=".convert-", dir=path.parent))
    try:
        form.save(contents, beside / path.name)
        os.rename(beside / path.name, path)
    finally:
        shutil.rmtree(beside)
    which = "" if form.whole else f", {contents.encoder} encoder"
    log.info("Wrote %s: %s%s%s", path, form.title, which, form.note(contents))


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str | None = None,
    *,
    arch: str | None = None,
    heads: int | None = None,
    encoder: str | None = None,
    image_size: int | None = None,
    partial: bool = False,
) -> None:
    """Reads `source` and writes `target`; the arguments are those of `read` and `write`."""
    contents = read(source, arch=arch, heads=heads, encoder=encoder, partial=partial)
    both = contents.holds(f"{TARGET['params']}/")  # else the choice is made
    write(target, contents, to, encoder=encoder if both else None, image_size=image_size)


def format_of_path(path: pathlib.Path, contents: Contents) -> str:
    """The format that the end of a path stands for.

    '.pth.tar' is the training file of the method, '.pkl' detectron2's, '.onnx' ONNX's, '.pth' and
    '.safetensors' torchvision's for a ResNet and timm's for a ViT.

    Args:
      path: of the file to write.
      contents: method and network decide between formats of one end.

    Raises:
      InputError: it stands for none.
    """
    flat = "torchvision" if contents.config.model.name.startswith("resnet") else "timm"
    ends = {".pkl": "detectron2", ".onnx": "onnx", ".pth": flat, ".safetensors": flat}
    if contents.method in FORMATS:
        ends[".pth.tar"] = contents.method
    for end, name in ends.items():
        if path.name.endswith(end):
            return name
    raise InputError(f"{path.name!r} tells no format: name one with --to (to=...)")


def describe(contents: Contents) -> str:
    """One line: format, architecture, parts, epoch."""
    parts = {
        "params/backbone/": f"{contents.encoder} encoder",
        "method_state/target/params/backbone/": "key encoder",
        "params/projector/": "projector",
        "params/predictor/": "predictor",
        "params/classifier/": "classifier",
    }
    if contents.config.protocol == "detection":
        parts |= {
            "params/predictor/": "detector of boxes",
            "params/mask_head/": "masks",
            "params/keypoint_head/": "keypoints",
        }
    if contents.config.protocol == "segmentation":
        parts["params/predictor/"] = "classes of pixels"
    held = [name for prefix, name in parts.items() if contents.holds(prefix)]
    c = contents.config
    if "method_state/queue" in contents.leaves:
        held.append(f"queue of {c.method.queue_size}")
    if contents.holds("optimizer/"):
        held.append(f"state of {c.optim.name}")
    if contents.epoch is not None:
        held.append(f"epoch {contents.epoch:g}")
    name = arch_of(c.model)
    if c.model.name.startswith("vit"):
        name += f" for {c.data.image_size} pixels, position embedding {c.model.vit.position!r}"
        if c.model.vit.norm_eps != NORM_EPS:
            name += f", LayerNorm's epsilon {c.model.vit.norm_eps:g}"
    return f"{FORMATS[contents.format].title}; {name}; {', '.join(held)}"
