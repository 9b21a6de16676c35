"""Where images come from: one string names a source, and a source is a value of two kinds.

N number of images, H height, W width, C channels

A new kind of source is one new file and one line in `OPENERS`.
"""

import dataclasses
import difflib
import logging
import pathlib
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from moco_jax import config, places
from moco_jax.data import summary
from moco_jax.data.summary import Understood
from moco_jax.errors import InputError, MissingError

log = logging.getLogger(__name__)

NOTHING = Understood()  # of a source that was not opened

# Named, not imported: what a source needs (TFDS, say) is loaded only when it is asked for. An
# opener takes what stands after the colon and an `Opening`.
OPENERS = {
    "embedded": "moco_jax.data.arrays:open_embedded",
    "folder:PATH": "moco_jax.data.folder:open_folder",
    "hf:NAME_OR_PATH": "moco_jax.data.hf:open_hf",
    "npz:PATH": "moco_jax.data.arrays:open_npz",
    "tfds:NAME": "moco_jax.data.tfds:open_tfds",
    "wds:PATTERN": "moco_jax.data.wds:open_wds",
}
_WITH_COLUMNS = ("hf", "tfds", "wds")


class Opening(NamedTuple):
    """How a source is opened.

    Attributes:
      cache_dir: where lists of files are kept; "": where the user's caches are.
      image_column: of a table or shards, the one of images; "": the only one.
      label_column: of a table or shards, the one of labels; "": the usual one.
      read_seconds: that an answer of the file system is waited for; 0: no limit.
    """

    cache_dir: str = ""
    image_column: str = ""
    label_column: str = ""
    read_seconds: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Images of one size, all in memory; or features of images, float32 (N, F), in their place.

    Attributes:
      name: What logs and errors call the source.
      images: uint8 (N, H, W, C).
      labels: int32 (N,), -1 where an image has none; None where all have none.
      class_names: Name of each class; () where they have none.
      entry: What batches call them: 'image', or 'features'.
      name_of: Index -> name of an image, where images have names of their own.
      understood: What is said of it at the start.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    entry: str = "image"
    name_of: Callable[[int], str] | None = None
    understood: Understood = NOTHING

    def __len__(self) -> int:
        return len(self.images)

    def item_name(self, index: int) -> str:
        """What logs, errors and files of features call an image."""
        return self.name_of(index) if self.name_of else f"{self.name}[{index}]"

    @property
    def channels(self) -> int:
        """C."""
        return self.images.shape[3]

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.images.shape[1:3]

    @property
    def labelled(self) -> bool:
        """Whether there are images with a label."""
        return self.labels is not None


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSource:
    """Images of any size, encoded, read one by one and decoded to colour.

    There is no array of labels: in a record file a label is read with its record only.

    Attributes:
      name: What logs and errors call the source.
      size: N.
      read: Index -> (encoded bytes, label or -1). Called from several threads at once.
      item_name: Index -> what logs, errors and files of features call the image.
      labelled: Whether there are images with a label.
      class_names: Name of each class; () where they have none.
      read_labels: Gives all labels, int32 (N,), without decoding images; None without labels.
      levels: Value of 16-bit pixels that becomes white; 0: 65535.
      understood: What is said of it at the start.
      channels: 3.
      image_shape: None: images have any size.
    """

    name: str
    size: int
    read: Callable[[int], tuple[bytes, int]]
    item_name: Callable[[int], str]
    labelled: bool = False
    class_names: tuple[str, ...] = ()
    read_labels: Callable[[], np.ndarray] | None = None
    levels: int = 0
    understood: Understood = NOTHING
    channels: int = dataclasses.field(default=3, init=False)
    image_shape: None = dataclasses.field(default=None, init=False)

    def __len__(self) -> int:
        return self.size


Source = ArraySource | EncodedSource


class Splits(NamedTuple):
    """The two parts of a data set; `test` is None where there is none."""

    train: Source
    test: Source | None


def open_source(spec: str, *how: str | float) -> Splits:
    """Opens the source that `spec` names.

    Args:
      spec: `embedded`, `folder:PATH`, `hf:NAME` or `hf:PATH`, `npz:PATH`, `tfds:NAME` (with
        TFDS's own way to add a config and a version: `NAME/CONFIG:VERSION`) or `wds:PATTERN`.
      *how: the fields of `Opening`, in turn.

    Raises:
      InputError: for an unknown kind, or data that is empty or not as it should be.
      MissingError: for a path that does not exist.
    """
    opening = Opening(*how)
    kind, _, where = spec.partition(":")
    forms = {form.partition(":")[0]: form for form in OPENERS}
    form = forms[config.choose("data.source", kind, forms)]
    if bool(where) != (":" in form):
        raise InputError(f"data.source={spec!r}: expected {form!r}")
    if (given := opening.image_column or opening.label_column) and kind not in _WITH_COLUMNS:
        raise InputError(f"data.image_column or data.label_column is {given!r}, but a source of "
                         f"kind {kind!r} has no columns: expected ''")  # fmt: skip
    if places.scheme(where):
        places.split("data.source", where)  # before a library is asked for, or a copy made
    return pkgutil.resolve_name(OPENERS[form])(where, opening)


def data_facts(splits: Splits) -> dict[str, str]:
    """What was understood of a source, as `summary.facts` says it."""
    train, test = splits
    return summary.facts(_understood(train), test and _understood(test))


def log_data(splits: Splits) -> None:
    """Says what was understood of a source."""
    log.info("Data: %s", splits.train.name)
    for heading, text in data_facts(splits).items():
        log.info("  %s: %s", heading, text)


def _understood(source: Source) -> Understood:
    """What the source says of itself, or where it does not, what can be seen of it."""
    if source.understood is not NOTHING:
        return source.understood
    size = " x ".join(map(str, source.image_shape or ())) or "encoded"
    seen = Understood(source.name, len(source), {size: len(source)})
    if isinstance(source, ArraySource) and source.labelled:
        return seen.labelled("the source", source.labels, source.class_names)
    by = f"the source, {len(source.class_names):,} classes, not counted"
    return dataclasses.replace(seen, labels=by, unlabelled=None) if source.labelled else seen


def existing(path: str) -> pathlib.Path:
    """Returns `path` where it exists; otherwise a MissingError naming its nearest sibling."""
    wanted = pathlib.Path(path).expanduser().absolute()
    if wanted.exists():
        return wanted
    parent = next(p for p in wanted.parents if p.is_dir())
    missing = wanted.relative_to(parent).parts[0]
    near = difflib.get_close_matches(missing, (p.name for p in parent.iterdir()), 1, 0.4)
    hint = f"; did you mean {str(parent / near[0])!r}?" if near else ""
    raise MissingError(f"{wanted} does not exist ({parent} does){hint}")
