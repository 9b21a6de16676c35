"""Sources from TensorFlow Datasets, read without TensorFlow (random access, array_record files)."""

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco_jax import places
from moco_jax.data import layout
from moco_jax.data.columns import choose_image, choose_label
from moco_jax.data.copies import local_copy, names_in
from moco_jax.data.source import EncodedSource, Opening, Splits
from moco_jax.data.summary import Understood
from moco_jax.errors import InputError
from moco_jax.extras import extra

with extra("tfds", "data.source='tfds:...'"):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

_LOOKED_AT = 16  # records whose labels tell whether some have none
_FILE_NAMES = ("file_name", "filename", "image/filename", "image_name")  # features so called


def open_tfds(name: str, opening: Opening = Opening()) -> Splits:
    """Opens a TFDS data set, prepared (downloaded, where its licence allows) if need be.

    It lies where TFDS keeps its data: the environment variable TFDS_DATA_DIR, or
    ~/tensorflow_datasets. Where that is in a bucket the data set is prepared already, and a copy is
    made: array_record reads files.

    Args:
      name: as TFDS takes it: `NAME`, `NAME:VERSION`, `NAME/CONFIG`, `NAME/CONFIG:VERSION`.
      opening: its columns are features here; and where a copy is kept.

    Raises:
      InputError: an unknown name; no training split; no images; prepared in a format without
        random access; it is not clear which feature is meant.
    """
    builder = prepared(name, opening)
    splits, chosen = list(builder.info.splits), splits_of(name, builder)
    test = chosen.get(layout.VALIDATION) or chosen.get(layout.TEST)
    train = _source(name, builder, chosen[layout.TRAIN], opening)
    unused = [split for split in splits if split not in (chosen[layout.TRAIN], test)]
    if unused:
        notes = f"not the splits {', '.join(map(repr, unused))}"
        train = dataclasses.replace(train, understood=train.understood.noting(notes))
    return Splits(train, test and _source(name, builder, test, opening))


def prepared(name: str, opening: Opening = Opening()) -> tfds.core.DatasetBuilder:
    """TFDS's builder of a data set, prepared for random access if need be.

    Args:
      name: see `open_tfds`.
      opening: where a copy is kept.

    Raises:
      InputError: see `open_tfds`.
    """
    folder = os.environ.get("TFDS_DATA_DIR", "")
    remote = places.scheme(folder)
    builder = _from_bucket(name, folder, opening) if remote else _builder(name)
    if not builder.is_prepared():
        _prepare(name, builder)
    formats = {kind.value for kind in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise InputError(
            f"tfds:{name} is prepared in {builder.data_path} as {', '.join(sorted(formats))}; "
            "expected array_record, for random access. Convert it once (this needs TensorFlow, in "
            f"any environment): tfds convert_format --dataset_version_dir={builder.data_path} "
            "--out_file_format=array_record"
        )
    return builder


def splits_of(name: str, builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """The splits of a data set by what they are for, as of `layout.pick`.

    Args:
      name: of the data set, for errors.
      builder: TFDS's.

    Raises:
      InputError: none is for training, or it is not clear which.
    """
    chosen = layout.pick(builder.info.splits)
    if layout.TRAIN not in chosen:
        raise InputError(f"tfds:{name} has no split 'train', only {', '.join(builder.info.splits)}")
    return chosen


def encoded(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[dict[str, Any]]:
    """The records of a split by their place, their images left encoded.

    Args:
      builder: TFDS's, of what is prepared.
      split: its name.
    """
    skipped = {
        key: tfds.decode.SkipDecoding()
        for key, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    }
    return builder.as_data_source(split, decoders=skipped)


def _prepare(name: str, builder: tfds.core.DatasetBuilder) -> None:
    """Downloads and prepares a data set, where its licence allows that without a person."""
    try:
        builder.download_and_prepare(file_format="array_record")
    except ModuleNotFoundError as error:
        raise _needs_more(name, error) from error
    except AssertionError as error:  # TFDS's way to ask for archives that are fetched by hand
        if "Manual directory" not in str(error):
            raise
        raise InputError(
            f"tfds:{name} is not prepared in {builder.data_path}, and its archives have to be "
            f"fetched by hand; docs/data.md tells how. TFDS says: {' '.join(str(error).split())}"
        ) from error


def _needs_more(name: str, error: ModuleNotFoundError) -> InputError:
    """TFDS's code of a data set imports what is not installed; of prepared files it is not used."""
    where = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return InputError(
        f"tfds:{name} is not prepared in {where}, and to prepare it takes a library that is not "
        f"installed here ({str(error).splitlines()[-1]}): tfds build {name} "
        "--file_format=array_record, in any environment with TensorFlow; docs/data.md tells how"
    )


def _builder(name: str) -> tfds.core.DatasetBuilder:
    """TFDS's builder for `name`; an error names the nearest of those it knows."""
    where = os.environ.get("TFDS_DATA_DIR")
    try:
        return tfds.builder(name, data_dir=where)
    except ModuleNotFoundError as error:  # some need TensorFlow even to be named, coco is one
        try:
            return read_only_builder.builder_from_files(name, data_dir=where)
        except tfds.core.DatasetNotFoundError:
            raise _needs_more(name, error) from error
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name.partition(":")[0], known, 1, 0.0)[0]
        raise InputError(
            f"TFDS knows no data set {name!r}, and none is prepared in its data folder; did you "
            f"mean 'tfds:{near}'?"
        ) from error


def _from_bucket(name: str, data_dir: str, opening: Opening) -> tfds.core.DatasetBuilder:
    """The builder of a copy of a data set that is prepared in a bucket, its newest version."""
    what, (name, _, wanted) = f"tfds:{name}", name.partition(":")
    address = f"{data_dir.rstrip('/')}/{name}"
    there = names_in(what, address)
    known = sorted(file.rpartition("/")[0] for file in there if file.endswith("dataset_info.json"))
    found = [version for version in known if wanted in ("", version.split("/")[-1])]
    if configs := {version.rpartition("/")[0] for version in found} - {""}:
        raise InputError(f"{what}: in {data_dir} it has configs; expected e.g. "
                         f"'tfds:{name}/{min(configs)}'")  # fmt: skip
    if not found:
        there = ", ".join(known) or "none"
        raise InputError(f"{what} is not prepared in {data_dir}; versions there: {there}")
    version = max(found, key=lambda version: list(map(int, re.findall(r"\d+", version))))
    if not any(f.startswith(f"{version}/") and ".array_record" in f for f in there):
        raise InputError(f"{what}: {address}/{version} has no array_record files, as random access "
                         "needs; docs/data.md tells how to convert it")  # fmt: skip
    return tfds.builder_from_directory(local_copy(what, f"{address}/{version}", opening.cache_dir))


def _source(
    name: str, builder: tfds.core.DatasetBuilder, split: str, opening: Opening
) -> EncodedSource:
    """One split, its images left encoded."""
    features, what = builder.info.features, f"tfds:{name} {split}"
    image, label = _features(what, builder.info, opening)
    records = encoded(builder, split)
    file_name = next((key for key in _FILE_NAMES if key in features), None)
    class_names = tuple(features[label].names) if label else ()
    understood = Understood(f"split {split!r}", len(records), {"records": len(records)})
    labelled = bool(label)
    if label:
        labels = _labels_where_some_lack(records, label)
        understood = _with_labels(understood, label, labels, class_names)
        labelled = labels is None or bool((labels >= 0).any())
    return EncodedSource(
        name=what,
        size=len(records),
        read=functools.partial(_read, records, image, label),
        item_name=functools.partial(_name, what, records, file_name),
        labelled=labelled,
        class_names=class_names if labelled else (),
        read_labels=functools.partial(_labels, records, label) if labelled else None,
        understood=understood,
    )


def _labels_where_some_lack(records: Sequence[dict[str, Any]], label: str) -> np.ndarray | None:
    """All labels where one of some records has none; None where these all have one.

    Labels lie within the records: to count them is to read the whole data set.
    """
    few = np.linspace(0, len(records) - 1, _LOOKED_AT, dtype=int).tolist()
    if all(records[i][label] >= 0 for i in few):
        return None
    return _labels(records, label)


def _with_labels(
    understood: Understood, label: str, labels: np.ndarray | None, class_names: tuple[str, ...]
) -> Understood:
    by = f"feature {label!r}"
    if labels is not None:
        return understood.labelled(by, labels, class_names)
    by = f"{by}, {len(class_names):,} classes, not counted"
    return dataclasses.replace(understood, labels=by, unlabelled=None)


def _labels(records: Sequence[dict[str, Any]], label: str) -> np.ndarray:
    """All labels; the records are read whole, their images not decoded."""
    return np.array([record[label] for record in records], np.int32)


def _features(what: str, info: tfds.core.DatasetInfo, opening: Opening) -> tuple[str, str | None]:
    """Keys of the image and of the label (None without): the supervised ones, or the only ones."""
    keys = [key for key in info.features if isinstance(key, str)]
    supervised = [key for key in (info.supervised_keys or ())[:2] if isinstance(key, str)]

    def found(kind: type, wanted: str) -> list[str]:
        of_kind = [key for key in keys if isinstance(info.features[key], kind)]
        usual = [key for key in supervised if key in of_kind and not wanted]
        return usual or of_kind

    images = found(tfds.features.Image, opening.image_column)
    labels = found(tfds.features.ClassLabel, opening.label_column)
    image = choose_image(what, keys, images, opening.image_column)
    return image, choose_label(what, labels, labels, opening.label_column)


def _name(what: str, records: Sequence[dict[str, Any]], key: str | None, i: int) -> str:
    """A place in the split, and the file that the image comes from, where a feature says it."""
    if key is None:
        return f"{what}[{i}]"
    name = records[i][key]
    return f"{what}[{i}] {name.decode() if isinstance(name, bytes) else name}"


def _read(
    records: Sequence[dict[str, Any]], image: str, label: str | None, index: int
) -> tuple[bytes, int]:
    record = records[index]
    return record[image], -1 if label is None else int(record[label])
