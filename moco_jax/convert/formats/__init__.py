"""The registry of formats: a new one is a file and a line here."""

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from moco_jax.config import choose
from moco_jax.convert import safetensors, topickle
from moco_jax.convert.contents import ROLES, Contents
from moco_jax.convert.formats import folder, official, onnx_model, ours, plain, transformers
from moco_jax.convert.formats.pytorch import RECORD, open_file, write_record
from moco_jax.convert.hints import Hints
from moco_jax.errors import CheckpointError, MissingError

Save = Callable[[Contents, pathlib.Path], None]


class Format(NamedTuple):
    """A format.

    Attributes:
      title: for people.
      save: writes contents to a path; None where the format is only read.
      whole: whether it holds a whole training, both encoders; else one encoder.
      note: what the user of a written file has to know, from the contents.
    """

    title: str
    save: Save | None
    whole: bool = False
    note: Callable[[Contents], str] = lambda contents: ""


def _torch(build: Callable[[Contents], Any]) -> Save:
    """Saves what `build` makes of the contents as PyTorch's zip archive."""

    def save(contents: Contents, path: pathlib.Path) -> None:
        tree = build(contents)
        with open(path, "wb") as file:
            topickle.save_zip(tree, file)

    return save


def _flat(contents: Contents, path: pathlib.Path) -> None:
    """A state dict as safetensors, where the path ends so, or as PyTorch's zip archive."""
    state = plain.write_flat(contents)
    with open(path, "wb") as file:
        if path.suffix == ".safetensors":
            safetensors.save(state, {RECORD: write_record(contents)}, file)
        else:
            topickle.save_zip(state, file)


def _torchvision(contents: Contents, path: pathlib.Path) -> None:
    if not contents.config.model.name.startswith("resnet"):
        raise CheckpointError("torchvision names its Vision Transformers otherwise: use timm")
    _flat(contents, path)


def _pickle(contents: Contents, path: pathlib.Path) -> None:
    tree = plain.write_detectron2(contents)
    with open(path, "wb") as file:
        topickle.dump(tree, file.write, protocol=3)


def _folder(write: Save) -> Save:
    def save(contents: Contents, path: pathlib.Path) -> None:
        path.mkdir()
        write(contents, path)

    return save


FORMATS = {
    "ours": Format("workdir of moco_jax", _folder(ours.write), whole=True),
    "moco": Format(
        "training file of MoCo v1/v2", _torch(partial(official.write, method="moco")), whole=True
    ),
    "moco_v3": Format(
        "training file of MoCo v3",
        _torch(partial(official.write, method="moco_v3")),
        whole=True,
        note=plain.epsilon,
    ),
    "cifar_demo": Format("file of MoCo's CIFAR-10 demonstration", None, whole=True),
    "lincls": Format(
        "linear-probe checkpoint of MoCo", _torch(plain.write_lincls), note=plain.epsilon
    ),
    "torchvision": Format("torchvision (or timm) ResNet", _torchvision, note=plain.flat_note),
    "timm": Format("timm model", _flat, note=plain.flat_note),
    "transformers": Format("transformers folder", _folder(transformers.write)),
    "deit": Format("DeiT fine-tuning file", _torch(plain.write_deit), note=plain.epsilon),
    "detectron2": Format("detectron2 backbone", _pickle, note=plain.detectron2_settings),
    "onnx": Format("ONNX model", onnx_model.write, note=onnx_model.interface),
    "torchvision_vit": Format("torchvision Vision Transformer", None),
    "training": Format("training file of another program", None),
}


def read(path: pathlib.Path, hints: Hints) -> Contents:
    """Reads a file or folder of any format, told by its content.

    Args:
      path: of the file or folder.
      hints: what it may leave open.

    Raises:
      InputError: a workdir has no such encoder.
      MissingError: there is nothing.
      CheckpointError: it is none of the formats, damaged, ambiguous or incomplete.
    """
    if not path.exists():
        raise MissingError(f"there is no file or folder {path}")
    if hints.encoder and ours.is_ours(path):
        choose("encoder", hints.encoder, ROLES)
    try:
        return _read_folder(path, hints) if path.is_dir() else _read_file(path, hints)
    except (CheckpointError, ValueError) as error:  # ValueError: a model that cannot be
        raise CheckpointError(f"{path}: {error}") from error


def _read_folder(path: pathlib.Path, hints: Hints) -> Contents:
    if ours.is_ours(path):
        return ours.read(path)
    if (path / "config.json").is_file():
        return folder.read(path, hints)
    names = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
    raise CheckpointError(
        f"neither a workdir (checkpoints/) nor a folder of transformers or timm (config.json): "
        f"there is {names}"
    )


def _read_file(path: pathlib.Path, hints: Hints) -> Contents:
    file = open_file(path)
    training = official.training_of(file)
    return official.read(*training, hints) if training else plain.read(file, hints)
