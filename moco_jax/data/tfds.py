"""Sources from TensorFlow Datasets, read without TensorFlow (random access, array_record files)."""

import difflib
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from moco_jax.data.source import EncodedSource, Splits
from moco_jax.errors import InputError

TEST_SPLITS = ("validation", "test")  # the first that exists


def open_tfds(name: str, _: str = "") -> Splits:
    """Opens a TFDS data set, prepared (downloaded, where its licence allows) if need be.

    It lies where TFDS keeps its data: the environment variable TFDS_DATA_DIR, or
    ~/tensorflow_datasets.

    Args:
      name: as TFDS takes it: `NAME`, `NAME:VERSION`, `NAME/CONFIG`, `NAME/CONFIG:VERSION`.

    Raises:
      InputError: an unknown name; no training split; no images; prepared in a format without
        random access.
    """
    builder = _builder(name)
    if not builder.is_prepared():
        builder.download_and_prepare(file_format="array_record")
    formats = {kind.value for kind in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise InputError(
            f"tfds:{name} is prepared in {builder.data_path} as {', '.join(sorted(formats))}; "
            "expected array_record, for random access. Convert it once (this needs TensorFlow, in "
            f"any environment): tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record"
        )
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise InputError(f"tfds:{name} has no split 'train', only {', '.join(splits)}")
    test = next((split for split in TEST_SPLITS if split in splits), None)
    return Splits(_source(name, builder, "train"), test and _source(name, builder, test))


def _builder(name: str) -> tfds.core.DatasetBuilder:
    """TFDS's builder for `name`; an error names the nearest of those it knows."""
    try:
        return tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition(":")[0], known, 1, 0.0)[0]
        raise InputError(
            f"TFDS knows no data set {name!r}, and none is prepared in its data folder; did you "
            f"mean 'tfds:{near}'?"
        ) from error


def _source(name: str, builder: tfds.core.DatasetBuilder, split: str) -> EncodedSource:
    """One split, its images left encoded."""
    image, label = _features(name, builder.info)
    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    records = builder.as_data_source(split, decoders=encoded)
    return EncodedSource(
        name=f"tfds:{name} {split}",
        size=len(records),
        read=functools.partial(_read, records, image, label),
        item_name=f"tfds:{name} {split}[{{}}]".format,
        labelled=label is not None,
        class_names=tuple(builder.info.features[label].names) if label else (),
        read_labels=functools.partial(_labels, records, label) if label else None,
    )


def _labels(records: Sequence[dict[str, Any]], label: str) -> np.ndarray:
    """All labels; the records are read whole, their images not decoded."""
    return np.array([record[label] for record in records], np.int32)


def _features(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str | None]:
    """Keys of the image and of the label (None without): the supervised ones, or the first."""
    keys = [*(info.supervised_keys or ())[:2], *info.features]
    keys = [key for key in keys if isinstance(key, str)]
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    image, label = (
        next((key for key in keys if isinstance(info.features[key], kind)), None) for kind in kinds
    )
    if image is None:
        raise InputError(f"tfds:{name} has no image among its features {', '.join(info.features)}")
    return image, label


def _read(
    records: Sequence[dict[str, Any]], image: str, label: str | None, index: int
) -> tuple[bytes, int]:
    record = records[index]
    return record[image], -1 if label is None else int(record[label])
