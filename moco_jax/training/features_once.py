"""A probe on features that are made once and kept in the workdir, in place of images.

N images, F features.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from functools import partial

import jax

from moco_jax import files
from moco_jax.bucket import Place
from moco_jax.checkpoint import checksums_of
from moco_jax.data.source import ArraySource, Source
from moco_jax.evals.extraction import extract
from moco_jax.evals.unchanged import backbone
from moco_jax.mesh import everywhere
from moco_jax.training.experiment import Experiment, eval_batches, make_encode, on_features
from moco_jax.training.step import TrainState

log = logging.getLogger(__name__)


def with_features(x: Experiment, state: TrainState, workdir: Place) -> Experiment:
    """The experiment on features in place of images, where the config wants that.

    They are kept in `workdir/features`, under a name that stands for the backbone and the images:
    a run that resumes reads them, a run of another backbone makes its own.

    Args:
      x: the experiment on images.
      state: with the backbone.
      workdir: of the run.

    Raises:
      NotFiniteError: there is a NaN or an infinity among the features.
    """
    if not on_features(x.config):
        return x
    d = x.config.data
    what = [
        checksums_of(backbone(state)), d.image_size, d.eval_crop_share, x.mean, x.std,
        [(part.name, len(part)) for part in (*x.data, x.held_out) if part], x.config.seed,
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    folder = workdir / "features" / key

    encode = make_encode(x, "backbone")

    def part(name: str, source: Source) -> ArraySource:
        make = lambda: extract(partial(encode, state), eval_batches(x, source))  # noqa: E731
        return _features(folder / f"{name}.npz", source, make)

    data = x.data._replace(train=part("train", x.data.train), test=part("test", x.data.test))
    held_out = x.held_out and part("held_out", x.held_out)
    return x._replace(data=data, evaluated=data, held_out=held_out)


def _features(file: Place, source: Source, make: Callable[[], tuple]) -> ArraySource:
    """Features (N, F) and labels of a source, from the file or made and kept there."""
    arrays = files.read_arrays(file)
    if not everywhere(arrays.keys() == {"features", "labels"}):
        features, labels = make()
        arrays = {"features": features, "labels": labels}
        if jax.process_index() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            files.write(file, files.as_npz(arrays))
            log.info("Features of %d images kept in %s", len(labels), file)
    return ArraySource(source.name, arrays["features"], arrays["labels"], source.class_names,
                       entry="features")  # fmt: skip
