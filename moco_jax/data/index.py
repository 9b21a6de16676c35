"""The list of a folder's images in one file: made once, then mapped into memory, not read.

A folder's modification time changes whenever a file in it appears, vanishes or is renamed, so
that a list is as good as the times of all folders in it.

N number of images
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from moco_jax.data import listing, packed, summary
from moco_jax.data.patience import waiting_for

log = logging.getLogger(__name__)

# Times of file systems may be this coarse: a folder that changed so recently may change again
# without showing it, and its list is not kept.
TICK = 2_000_000_000  # ns
_VERSION = 3  # of the file: another one's is made anew


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The images of one folder, sorted.

    Attributes:
      root: The folder.
      class_names: () where images have no classes.
      labels: int32 (N,), numbers of classes, or None.
      ends: int64 (N,), where each path ends in `names`.
      names: uint8, all paths below the root, one after the other.
      kinds: The ends of the images' names, each with how many there are.
      left_out: What was left out and why, as `summary.LeftOut`.
      file: Where the list is kept, with its stamp; None where it is not.
    """

    root: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    ends: np.ndarray
    names: np.ndarray
    kinds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, tuple[int, str]] = dataclasses.field(default_factory=dict)
    file: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def path(self, i: int) -> str:
        """Path of image i."""
        start = self.ends[i - 1] if i else 0
        return os.path.join(self.root, os.fsdecode(self.names[start : self.ends[i]].tobytes()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes map the file as well, rather than have a copy each.
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return (_reopen, self.file) if self.file else (type(self), tuple(fields))

    @classmethod
    def of(
        cls,
        root: str,
        paths: Sequence[str],
        labels: np.ndarray | None,
        class_names: Sequence[str],
        left_out: Mapping[str, tuple[int, str]],
    ) -> Self:
        """An index in memory of paths below a root.

        Args:
          root: folder.
          paths: relative to it.
          labels: int32 (N,); None: there are none.
          class_names: of each label.
          left_out: reason -> how many, and the first.
        """
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        names = np.frombuffer(b"".join(encoded), np.uint8)
        kinds = summary.kinds_of(paths)
        return cls(root, tuple(class_names), labels, ends, names, kinds, left_out)


def cache_file(cache_dir: str, root: str) -> pathlib.Path:
    """Where the list of `root` is kept.

    Args:
      cache_dir: `data.cache_dir`; "": the user's caches.
      root: folder that is listed.
    """
    return packed.cache_file(cache_dir, os.path.basename(root), root, "index")


def load(file: pathlib.Path) -> Index | None:
    """The index kept in a file; None where there is none or its folders have changed since."""
    try:
        with waiting_for(str(file)):
            index, folders = _open(file)
        places = {name: os.path.join(index.root, name) for name in folders}
        times = {name: listing.status(place).st_mtime_ns for name, place in places.items()}
    except (OSError, ValueError, KeyError):
        return None
    return index if times == folders else None


def save(index: Index, folders: Mapping[str, int], begin: int, file: pathlib.Path) -> Index:
    """Keeps an index in a file, unless its folders have just changed or the file is refused.

    Args:
      index: In memory.
      folders: Each folder below the root with its modification time in ns, from before its
        listing.
      begin: When the listing began, ns.
      file: From `cache_file`.

    Returns:
      The index, on file where that was possible.
    """
    if max(folders.values()) > begin - TICK:
        log.info("%s has just changed: its list of images is not kept", index.root)
        return index
    if fleeting := set(index.left_out) & set(listing.FLEETING):
        log.info("%s: the list of images is not kept: there are %s", index.root,
                 " and ".join(sorted(fleeting)))  # fmt: skip
        return index
    head = {
        "version": _VERSION,
        "root": index.root,
        "class_names": index.class_names,
        "kinds": index.kinds,
        "left_out": index.left_out,
        "folders": folders,
    }
    arrays = {"ends": index.ends, "names": index.names}
    if index.labels is not None:
        arrays["labels"] = index.labels
    try:
        packed.write(file, head, arrays)
    except OSError as error:
        log.warning("the list of images of %s is not kept: %s", index.root, error)
        return index
    log.info("The list of images is kept in %s", file)
    return _open(file)[0]


def _open(file: pathlib.Path) -> tuple[Index, dict[str, int]]:
    """Maps a file of `save` into memory; the second are its folders."""
    head, arrays = packed.open_file(file, _VERSION)
    left_out = {reason: tuple(found) for reason, found in head["left_out"].items()}
    index = Index(
        head["root"], tuple(head["class_names"]), arrays.get("labels"), arrays["ends"],
        arrays["names"], head["kinds"], left_out, (str(file), head["stamp"]),
    )  # fmt: skip
    return index, head["folders"]


def _reopen(file: str, stamp: str) -> Index:
    index, _ = _open(pathlib.Path(file))
    packed.check_stamp(file, index.file[1], stamp)
    return index
