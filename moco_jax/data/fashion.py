"""Fashion-MNIST as a .npz file or a folder of PNG files, from the four IDX files as published.

    python -m moco_jax.data.fashion IDX_FOLDER --npz OUT.npz
    python -m moco_jax.data.fashion IDX_FOLDER --png OUT_DIR --count 1000

`--count 10000` makes the part that comes with the package, data/embedded/fashion_mnist.npz.

N number of images
"""

import argparse
import gzip
import math
import pathlib

import numpy as np
from PIL import Image

from moco_jax.data.source import existing
from moco_jax.errors import InputError

CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes.

    Raises:
      InputError: it is none, or is cut short.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08":
        raise InputError(f"{path} is no IDX file of unsigned bytes")
    dims = data[3]
    shape = np.frombuffer(data, ">u4", dims, offset=4)
    if len(data) != 4 + 4 * dims + math.prod(shape.tolist()):
        raise InputError(f"{path} is cut short: its header promises an array {tuple(shape)}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` images of every class, in the order of the file.

    Args:
      labels: integers (N,).
      count: of each class.
    """
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in np.unique(labels)]))


def load(folder: pathlib.Path, count: int = 0) -> dict[str, np.ndarray]:
    """Both parts of the data set, as `npz:` sources name them.

    Args:
      folder: Holds the four files.
      count: Training images, as many of each class, and a fifth as many test images; 0: all.
    """
    arrays = {}
    for prefix, file, wanted in (("", "train", count), ("test_", "t10k", count // 5)):
        labels = read_idx(folder / f"{file}-labels-idx1-ubyte.gz")
        images = read_idx(folder / f"{file}-images-idx3-ubyte.gz")
        kept = first_of_each_class(labels, wanted // 10) if count else np.arange(len(labels))
        arrays |= {f"{prefix}images": images[kept], f"{prefix}labels": labels[kept]}
    return arrays


def write_png(arrays: dict[str, np.ndarray], out: pathlib.Path) -> None:
    """Writes `train/CLASS/NUMBER.png` and `val/CLASS/NUMBER.png`; classes sort by number.

    Args:
      arrays: as `npz:` reads them.
      out: folder.
    """
    for part, prefix in (("train", ""), ("val", "test_")):
        pairs = zip(arrays[f"{prefix}images"], arrays[f"{prefix}labels"].tolist())
        for number, (image, label) in enumerate(pairs):
            name = CLASS_NAMES[label].lower().replace("/", "-").replace(" ", "-")
            folder = out / part / f"{label}-{name}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:05}.png")


def main() -> None:
    """Reads the command line and writes what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="folder of the four .gz files")
    parser.add_argument("--npz", type=pathlib.Path, help="file to write")
    parser.add_argument("--png", type=pathlib.Path, help="folder to write")
    parser.add_argument("--count", type=int, default=0, help="training images; 0: all 60,000")
    args = parser.parse_args()
    if not (args.npz or args.png):
        parser.error("nothing to write: give --npz, --png or both")
    if args.count % 50 or args.count < 0:
        parser.error(f"--count {args.count}: expected a multiple of 50, for ten equal classes")
    arrays = load(existing(args.folder), args.count)
    if args.npz:
        np.savez_compressed(args.npz, **arrays, class_names=np.array(CLASS_NAMES))
    if args.png:
        write_png(arrays, args.png)


if __name__ == "__main__":
    main()
