"""Features on disk: parts while they are made, so that an interruption loses little; then one file.

N images, F features
"""

import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from moco_jax.config import choose
from moco_jax.errors import InputError
from moco_jax.evals.extraction import Features
from moco_jax.extras import extra

ABOUT = "about.json"
COLUMNS = ("features", "labels", "index", "names", "split")
Name = Callable[[str, int], str]


class Parts:
    """The parts of a file in the making, in a folder beside it.

    A part is an `.npz` of what some consecutive images of a split gave, named
    `split-start-stop`. A folder of other settings is refused.
    """

    def __init__(self, out: pathlib.Path, about: dict[str, Any]):
        """Opens or makes the folder.

        Args:
          out: the file that is wanted.
          about: what decides the features; JSON values.

        Raises:
          InputError: the folder holds parts of other settings.
        """
        self.folder = out.with_name(f"{out.name}.parts")
        self.about = json.loads(json.dumps(about))
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / ABOUT
        if not file.exists():
            _write(file, lambda part: part.write_text(json.dumps(self.about, indent=2)))
        there = json.loads(file.read_text())
        other = [k for k in there.keys() | self.about.keys() if there.get(k) != self.about.get(k)]
        if other:
            raise InputError(
                f"{self.folder} holds an interrupted extraction with other settings ("
                + "; ".join(f"{k}: {there.get(k)}, now {self.about.get(k)}" for k in sorted(other))
                + "): remove it or name another --out"
            )

    def done(self, split: str) -> int:
        """How many images of a split the parts cover, from the first on.

        Raises:
          InputError: a part before another is missing.
        """
        end = 0
        for start, stop, _ in self._of(split):
            if start != end:
                raise InputError(f"{self.folder} lacks a part of {split!r} at image {end}")
            end = stop
        return end

    def add(self, split: str, start: int, stop: int, found: Features) -> None:
        """Keeps what images `start` to `stop` gave; those that could not be read gave nothing.

        Args:
          split: 'train' or 'test'.
          start: first image.
          stop: first image that is not in it.
          found: of the images between.
        """
        file = self.folder / f"{split}-{start:09}-{stop:09}.npz"
        _write(file, lambda part: _savez(part, found))

    def files(self) -> Iterator[tuple[str, pathlib.Path]]:
        """All parts in order, each with its split."""
        for split in self.about["images"]:
            for _, _, file in self._of(split):
                yield split, file

    def remove(self) -> None:
        """Ends it."""
        shutil.rmtree(self.folder)

    def _of(self, split: str) -> list[tuple[int, int, pathlib.Path]]:
        files = self.folder.glob(f"{split}-*-*.npz")
        return sorted((*map(int, file.stem.split("-")[1:]), file) for file in files)


def check_out(out: pathlib.Path) -> None:
    """Refuses a file that cannot be written, before anything is computed.

    Raises:
      InputError: it exists, its name ends otherwise than a format's, or a library is missing.
    """
    choose("the end of --out", out.suffix, WRITERS)
    if out.exists():
        raise InputError(f"{out} exists; it is not overwritten")
    if out.suffix == ".parquet":
        _pyarrow()


def assemble(out: pathlib.Path, parts: Parts, names: Name, class_names: tuple[str, ...]) -> int:
    """Writes the file from its parts, one after the other, and removes them.

    Args:
      out: .npz or .parquet; it appears under its name when it is complete.
      parts: complete.
      names: (split, index) -> name of the image.
      class_names: of the labels; () where they have none.

    Returns:
      N.

    Raises:
      InputError: no image could be read.
    """
    count = sum(len(column) for column in _column(parts, "index", names))
    if not count:
        raise InputError(f"none of the images of {parts.about['data']} can be read")
    about = {"class_names": json.dumps(class_names), "about": json.dumps(parts.about)}
    _write(out, lambda part: WRITERS[out.suffix](part, parts, names, about, count))
    parts.remove()
    return count


def _write(file: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Lets `write` fill a file beside, which then gets its name."""
    part = file.with_name(f".{file.name}.part")
    write(part)
    part.replace(file)


def _savez(part: pathlib.Path, found: Features) -> None:
    with part.open("wb") as file:  # a path would get another ending
        np.savez(file, **found._asdict())


def _column(parts: Parts, key: str, names: Name) -> Iterator[np.ndarray]:
    """One column of the file, part by part."""
    for split, file in parts.files():
        with np.load(file) as arrays:
            if key in arrays:
                yield arrays[key]
            elif key == "split":
                yield np.full(len(arrays["index"]), split)
            else:
                yield np.array([names(split, i) for i in arrays["index"].tolist()], np.str_)


def _npz(part: pathlib.Path, parts: Parts, names: Name, about: dict[str, str], count: int) -> None:
    """An uncompressed .npz, each array written as its parts come."""
    with zipfile.ZipFile(part, "w", allowZip64=True) as archive:
        for key in COLUMNS:
            first = next(_column(parts, key, names))
            # Text is as wide as the longest.
            widths = [c.dtype for c in _column(parts, key, names)] if key == "names" else ()
            dtype = np.result_type(first, *widths)
            shape = (count, *first.shape[1:])
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "shape": shape}
                np.lib.format.write_array_header_2_0(file, header | {"fortran_order": False})
                for column in _column(parts, key, names):
                    file.write(np.ascontiguousarray(column, dtype).tobytes())
        class_names = np.array(json.loads(about["class_names"]), np.str_)
        for key, value in (("class_names", class_names), ("about", np.array(about["about"]))):
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, value, allow_pickle=False)


def _parquet(part: pathlib.Path, parts: Parts, names: Name, about: dict[str, str], _: int) -> None:
    """A row for each image, a group of rows for each part; the rest is in the schema's metadata."""
    pyarrow, writer = _pyarrow(), None
    for columns in zip(*(_column(parts, key, names) for key in COLUMNS)):
        arrays = {key: pyarrow.array(c) for key, c in zip(COLUMNS[1:], columns[1:])}
        flat = pyarrow.array(columns[0].reshape(-1))
        features = pyarrow.FixedSizeListArray.from_arrays(flat, columns[0].shape[1])
        table = pyarrow.table({"features": features, **arrays}).replace_schema_metadata(about)
        writer = writer or pyarrow.parquet.ParquetWriter(part, table.schema)
        writer.write_table(table)
    writer.close()


def _pyarrow() -> Any:
    with extra("parquet", "--out=....parquet"):
        import pyarrow
        import pyarrow.parquet
    return pyarrow


WRITERS = {".npz": _npz, ".parquet": _parquet}
