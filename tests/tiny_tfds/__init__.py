"""A TFDS data set of a few generated images, for the tests: `tfds:tiny_images`."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNTS = {"train": 20, "validation": 6}


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """Image i of a split is 40x30 pixels of the level 10 i; its label is i % 2."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "name": tfds.features.Text(),
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            file = io.BytesIO()
            Image.fromarray(np.full((30, 40, 3), 10 * i, np.uint8)).save(file, "PNG")
            file.seek(0)
            yield i, {"name": str(i), "image": file, "label": i % 2}
