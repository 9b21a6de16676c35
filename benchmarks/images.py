"""Images like ImageNet's to measure with: 500 x 375 JPEG files of about 70 KB, and array_record.

python -m benchmarks.images OUT_DIR --count 1000
"""

import argparse
import concurrent.futures
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

HEIGHT, WIDTH, QUALITY = 375, 500, 78
CLASSES = 10


def natural(height: int, width: int, seed: int) -> np.ndarray:
    """Colour noise with the 1/f spectrum of photographs, the channels alike as there: uint8."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1

    def noise() -> np.ndarray:
        spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**1.1
        field = np.fft.irfft2(spectrum, (height, width))
        return field / field.std()

    gray = noise()
    image = np.stack([gray + 0.4 * noise() for _ in range(3)], -1)
    return (128 + 55 * image / image.std()).clip(0, 255).astype(np.uint8)


def write_folder(out: pathlib.Path, count: int) -> None:
    """Writes `count` JPEG files in ten class folders; those that are there stay."""

    def write(number: int) -> None:
        path = out / f"class{number % CLASSES}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray(natural(HEIGHT, WIDTH, number)).save(path, quality=QUALITY)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


class BenchmarkImages(tfds.core.GeneratorBasedBuilder):
    """The same files as a TFDS data set: `tfds:benchmark_images`, from its manual folder."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Write the files with benchmarks.images."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"train": self._generate_examples(dl_manager.manual_dir)}

    def _generate_examples(self, folder: pathlib.Path):
        for path in sorted(pathlib.Path(folder).glob("*/*.jpg")):
            yield path.name, {"image": str(path), "label": int(path.parent.name[5:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args()
    write_folder(args.out, args.count)


if __name__ == "__main__":
    main()
