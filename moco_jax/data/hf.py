"""Sources from the Hugging Face library `datasets`, an optional extra: moco_jax[hf]."""

import functools
import os
import pathlib
from typing import Any

import numpy as np

from moco_jax.data.source import EncodedSource, Splits
from moco_jax.errors import InputError

TEST_SPLITS = ("validation", "test")  # the first that exists
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes


def open_hf(where: str, _: str = "") -> Splits:
    """Opens a data set of the hub, downloaded if need be, or one on disk.

    Args:
      where: `NAME` or `NAME:CONFIG` as on the hub; or the path of a folder that `save_to_disk`
        wrote, or that `datasets.load_dataset` knows to read (Parquet files, images).

    Raises:
      InputError: the library is missing; it cannot load the data set; no training split; no
        images.
    """
    splits = _load(where)
    if "train" not in splits:
        raise InputError(f"hf:{where} has no split 'train', only {', '.join(splits)}")
    test = next((split for split in TEST_SPLITS if split in splits), None)
    return Splits(*(name and _source(where, name, splits[name]) for name in ("train", test)))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "data.source='hf:...' needs the library 'datasets': pip install 'moco_jax[hf]'"
        ) from error
    return datasets


def _load(where: str) -> dict[str, Any]:
    """The data set's splits by name; a data set without splits is one for training."""
    datasets, path = _library(), pathlib.Path(where).expanduser()
    name, _, subset = where.partition(":")
    try:
        if any((path / file).exists() for file in _SAVED):
            found = datasets.load_from_disk(str(path))
        elif path.exists():
            found = datasets.load_dataset(str(path))
        else:
            found = datasets.load_dataset(name, subset or None)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors derive from these
        raise InputError(f"hf:{where} cannot be loaded: {error}") from error
    return found if isinstance(found, dict) else {"train": found}


def _source(where: str, split: str, records: Any) -> EncodedSource:
    """One split, its images left encoded."""
    datasets = _library()
    image, label = (
        next((key for key, feature in records.features.items() if isinstance(feature, kind)), None)
        for kind in (datasets.Image, datasets.ClassLabel)
    )
    if image is None:
        raise InputError(
            f"hf:{where} has no image among its features {', '.join(records.features)}"
        )
    names = records.features[label].names if label else ()
    records = records.select_columns([image, label] if label else [image])
    records = records.cast_column(image, datasets.Image(decode=False))
    return EncodedSource(
        name=f"hf:{where} {split}",
        size=len(records),
        read=functools.partial(_read, records, image, label),
        item_name=f"hf:{where} {split}[{{}}]".format,
        labelled=label is not None,
        class_names=tuple(names),
        read_labels=functools.partial(_labels, records, label) if label else None,
    )


def _labels(records: Any, label: str) -> np.ndarray:
    return np.array(records[label], np.int32)


def _read(records: Any, image: str, label: str | None, i: int) -> tuple[bytes, int]:
    record = records[i]
    content = record[image]["bytes"]
    if content is None:  # the data set only names a file
        with open(os.path.expanduser(record[image]["path"]), "rb") as file:
            content = file.read()
    return content, -1 if label is None else int(record[label])
