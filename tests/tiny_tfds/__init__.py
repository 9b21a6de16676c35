"""A TFDS data set made from local files, as ImageNet's is, for the tests: `tfds:tiny_images`."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"train": 20, "validation": 6}


def write_files(data_dir):
    """Writes the files where TFDS looks for manual downloads.

    Image i of a split is 40x30 pixels of the level 10 i; its label is i % 2.
    """
    for split, count in COUNTS.items():
        for i in range(count):
            path = pathlib.Path(data_dir) / "downloads" / "manual" / split / f"{i % 2}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((30, 40, 3), 10 * i, np.uint8)).save(path)


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """The files of `write_files`."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Call tests.tiny_tfds.write_files."

    def _info(self):
        features = {
            "file_name": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        folder = pathlib.Path(dl_manager.manual_dir)
        return {split: self._generate_examples(folder / split) for split in COUNTS}

    def _generate_examples(self, folder):
        for path in folder.glob("*/*.png"):
            label = int(path.parent.name)
            yield path.stem, {"file_name": path.name, "image": str(path), "label": label}
