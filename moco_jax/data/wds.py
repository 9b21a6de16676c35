"""Sources that are WebDataset shards: tar files, on file systems or in buckets."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from moco_jax import config
from moco_jax.data import blobs, layout
from moco_jax.data.blobs import Blob
from moco_jax.data.labels import class_numbers
from moco_jax.data.patience import while_it_lives
from moco_jax.data.samples import Samples, open_samples
from moco_jax.data.shard import Wanted
from moco_jax.data.source import EncodedSource, Opening, Splits
from moco_jax.data.summary import LeftOut, Understood
from moco_jax.errors import InputError

_SEVERAL = "::"  # between patterns, as WebDataset has it
_PARTS = ("train", "test")


def open_wds(where: str, opening: Opening) -> Splits:
    """Opens tar shards.

    Args:
      where: `PATTERN`, or several with `::` between them; see `blobs`. A folder stands for all
        its .tar files. Which shards are tests is told by names as `layout` knows them: a word of
        the file's name, or the folder's; or by `train=PATTERN,test=PATTERN`.
      opening: where the samples' places are kept, and how long an answer of the file system is
        waited for; its columns: `image_column` kinds of images
        (`jpg` or `jpg;png`), `label_column` a kind of text files (`cls`) or `json.FIELD`.

    Raises:
      MissingError: a shard that was named does not exist.
      InputError: no images; it is not clear which shards, images or labels are meant.
      StorageError: a bucket, or the place that the shards are in, does not answer.
    """
    opened = functools.partial(_open, where, opening)
    return while_it_lives(opened, opening.read_seconds)


def _open(where: str, opening: Opening) -> Splits:
    train, test, notes = _shards(where)
    kinds = opening.image_column.lower().split(";") if opening.image_column else ()
    wanted = Wanted(tuple(kind.lstrip(".") for kind in kinds), opening.label_column.lstrip("."))
    source = _source("wds", _samples(train, wanted, opening.cache_dir), (), notes)
    if not test:
        return Splits(source, None)
    samples = _samples(test, wanted, opening.cache_dir)
    return Splits(source, _source("wds test", samples, source.class_names))


def _shards(where: str) -> tuple[list[Blob], list[Blob], tuple[str, ...]]:
    """The shards of training and of tests, and what was decided about them."""
    if not re.match(r"\w+=", where):
        return _by_name(_find(where))
    found = {}
    for part in re.split(r",(?=\w+=)", where):
        name, _, patterns = part.partition("=")
        found[config.choose("data.source: a part of wds", name, _PARTS)] = _find(patterns)
    if "train" not in found:
        raise InputError(f"wds:{where} has no part 'train'; expected train=PATTERN,test=PATTERN")
    test = found.get("test", [])
    if both := set(found["train"]) & set(test):
        raise InputError(f"wds:{where}: {min(both).path} is a shard of train and of test")
    return found["train"], test, ()


def _find(patterns: str) -> list[Blob]:
    """The shards of several patterns, each once, by path."""
    if re.search(r"(^|::)pipe:", patterns):
        raise InputError(
            f"wds:{patterns}: what a program gives cannot be read in parts; expected a path, gs:// "
            "or s3://"
        )
    each = [blobs.find(f"wds:{patterns}", one, ".tar") for one in patterns.split(_SEVERAL)]
    return sorted(set().union(*each))


def _by_name(found: Sequence[Blob]) -> tuple[list[Blob], list[Blob], tuple[str, ...]]:
    """Shards by the split that their names tell; all are for training where none is told apart."""
    roles: dict[str | None, list[Blob]] = {}
    for blob in found:
        roles.setdefault(_role(blob.path), []).append(blob)
    if len(roles) == 1:
        (name,) = roles
        return list(found), [], (f"shards of {name} by their names",) if name else ()
    if layout.TRAIN not in roles or None in roles:
        seen = "; ".join(f"{some[0].path} ({name or 'neither'})" for name, some in roles.items())
        raise InputError(
            f"wds: it is not clear which shards are for training and which for tests: {seen}; "
            "say so: wds:train=PATTERN,test=PATTERN"
        )
    test = layout.VALIDATION if layout.VALIDATION in roles else layout.TEST
    unused = [name for name in roles if name not in (layout.TRAIN, test)]
    notes = tuple(f"not the {len(roles[name])} shards of {name}" for name in unused)
    return roles[layout.TRAIN], roles[test], notes


def _role(path: str) -> str | None:
    """The split of a shard: by the first word of its name that is one's, or by its folder."""
    folder, _, name = path.rpartition("/")
    words = [layout.role(word) for word in re.split(r"[^a-z]+", name.lower()) if word]
    return next(filter(None, words), None) or layout.role(folder.rpartition("/")[2])


def _samples(found: list[Blob], wanted: Wanted, cache_dir: str) -> Samples:
    what = f"wds:{found[0].path}" + (f" and {len(found) - 1:,} more" if found[1:] else "")
    samples = open_samples(what, found, wanted, cache_dir)
    if not len(samples):
        raise InputError(f"{what}: no image; found {LeftOut(samples.left_out) or 'nothing'}")
    return samples


def _source(
    kind: str, samples: Samples, class_names: tuple[str, ...], notes: tuple[str, ...] = ()
) -> EncodedSource:
    """A source; of test images with the numbers that their classes have in training."""
    first, last = samples.shards[0], blobs.name(samples.shards[-1])
    place = f"{len(samples.shards):,} shards, {first} to {last}" if samples.shards[1:] else first
    understood = Understood(
        place, len(samples), samples.kinds, left_out=samples.left_out,
        notes=(*notes, *samples.notes),
    )  # fmt: skip
    numbers = None
    if samples.labels is not None:
        numbers, class_names = _numbers(f"{kind}:{first}", samples, class_names)
        understood = understood.labelled(f"{samples.column!r}", numbers, class_names)
        numbers = numbers if (numbers >= 0).any() else None
    return EncodedSource(
        name=f"{kind}:{first}",
        size=len(samples),
        read=functools.partial(_read, samples, numbers),
        item_name=functools.partial(_name, samples),
        labelled=numbers is not None,
        class_names=class_names if numbers is not None else (),
        read_labels=None if numbers is None else functools.partial(np.copy, numbers),
        understood=understood,
    )


def _numbers(
    what: str, samples: Samples, class_names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, int32 (N,), numbered as in training where that has names; and the classes' names."""
    values: Any = samples.labels
    if samples.class_names:
        values = np.array([*samples.class_names, ""])[samples.labels]
    numbers, names = class_numbers(f"{what}: {samples.column}", values, class_names)
    return numbers, names or tuple(map(str, range(int(numbers.max()) + 1)))


def _name(samples: Samples, i: int) -> str:
    """The shard and the file in it: the same wherever the shards lie."""
    return f"{blobs.name(samples.path(i))}/{samples.name(i)}"


def _read(samples: Samples, numbers: np.ndarray | None, i: int) -> tuple[bytes, int]:
    return samples.read(i), -1 if numbers is None else int(numbers[i])
