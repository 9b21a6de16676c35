"""Small images: the resident array against reading, decoding and cropping one by one.

python -m benchmarks.resident --config=configs/demo.py

The peer is the pipeline's own way of encoded images, on the same images as PNG files. Both give
cropped views: there the host crops, here the device; 'offered' leaves the device's crop out.
"""

import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags
from PIL import Image

from moco_jax import mesh as meshes
from moco_jax.data import augment, pipeline, transfer, workers
from moco_jax.data.source import ArraySource, Source, open_source

CONFIG = config_flags.DEFINE_config_file("config", None, "Its source is an array.")
STEPS = flags.DEFINE_integer("steps", 100, "Batches of a round of the resident path.")
ROUNDS = flags.DEFINE_integer("rounds", 6, "Of both paths in turn; the best of each counts.")


def write_png(source: ArraySource, folder: pathlib.Path) -> Source:
    """The same images as a folder of files."""
    for number, image in enumerate(source.images):
        pixels = image[..., 0] if source.channels == 1 else image
        Image.fromarray(pixels).save(folder / f"{number:06}.png")
    return open_source(f"folder:{folder}", str(folder / ".cache")).train


def crops(data: ConfigDict, channels: int) -> Callable[[dict], tuple[jax.Array, jax.Array]]:
    """The jitted random resized crops of both views, without what else a recipe does."""
    recipes = [ConfigDict(view.to_dict() | {"order": ()}) for view in (data.view1, data.view2)]
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    view = augment.make_views(recipes, data.image_size, zeros, ones, 0)
    return jax.jit(lambda batch: (view(batch, 0), view(batch, 1)))


def rate(batches: Iterator[dict], steps: int, batch_size: int, use: Callable) -> float:
    """Views a second over some steps, two views an image."""
    jax.block_until_ready(use(next(batches)))
    begin = time.perf_counter()
    for _ in range(steps):
        done = use(next(batches))
    jax.block_until_ready(done)
    return 2 * steps * batch_size / (time.perf_counter() - begin)


def main(argv: Sequence[str]) -> None:
    del argv
    data = CONFIG.value.data
    array, size = pipeline.open_data(data).train, data.batch_size
    sharding = meshes.batched(meshes.make_mesh())
    resident = functools.partial(transfer.put_resident, array, sharding)
    crop = crops(data, array.channels)
    best = {"one by one": 0.0, "resident, offered": 0.0, "resident, cropped": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        files = write_png(array, pathlib.Path(folder))
        put = functools.partial(transfer.put, sharding)
        for _ in range(ROUNDS.value):
            with pipeline.train_batches(files, data, 0, put=put) as batches:
                for _ in range(2 + data.prefetch):
                    next(batches)
                found = {"one by one": rate(batches, 10, size, lambda batch: batch)}
            for name, use in (("offered", lambda batch: batch), ("cropped", crop)):
                with pipeline.train_batches(array, data, 0, put=resident, pixels=False) as batches:
                    found[f"resident, {name}"] = rate(batches, STEPS.value, size, use)
            best = {name: max(best[name], found[name]) for name in best}
    device = jax.devices()[0]
    print(
        f"{device.platform} {device.device_kind}, {workers.cores()} cores, load {os.getloadavg()}"
    )
    for name, views in best.items():
        print(f"{name}: {views:.0f} views/s, {views / best['one by one']:.1f} times")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
