"""An experiment whose images and devices need not be there: shapes are enough to compile it.

B batch, N images, K classes, H height and W width, C channels, S size of a view.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from moco_jax import mesh as meshes
from moco_jax import options
from moco_jax.config import choose
from moco_jax.data import pipeline
from moco_jax.data.source import ArraySource, EncodedSource, Source, Splits
from moco_jax.errors import InputError
from moco_jax.methods.method import Batch
from moco_jax.ops.operations import operations
from moco_jax.protocols import MAKERS, make_task
from moco_jax.training import experiment
from moco_jax.training.experiment import Experiment
from moco_jax.training.facts import facts_of


class Size(NamedTuple):
    """A data set in numbers.

    Attributes:
      images: N, to train on.
      classes: K; 0: no labels.
      shape: (H, W, C) of images that lie in memory as one array; (): encoded, cropped by the host.
    """

    images: int
    classes: int = 0
    shape: tuple[int, ...] = ()


SIZES = {
    "tfds:imagenet2012": Size(1_281_167, 1000),
    "tfds:cifar10": Size(50_000, 10, (32, 32, 3)),
    "tfds:cifar100": Size(50_000, 100, (32, 32, 3)),
    "embedded": Size(10_000, 10, (28, 28, 1)),
    "npz:fashion.npz": Size(60_000, 10, (28, 28, 1)),
}


Made = Callable[[ConfigDict, jax.sharding.Mesh, Size | None], Experiment]


def made(config: ConfigDict, mesh: jax.sharding.Mesh, size: Size | None) -> Experiment:
    """The experiment of a method or of supervised training, of data in numbers; see `build`."""
    choose("protocol", config.protocol, MAKERS)
    refuse_features(config)
    size = size or known(config.data.source, SIZES)
    images = max(size.classes, round(size.images * config.data.label_share))
    data = Splits(_source(config.data.source, size._replace(images=images)), None)
    pipeline.check_size(data.train, config.data.batch_size)
    channels = pipeline.channel_stats(data.train, config.data)
    return experiment.assemble(config, mesh, data, channels)


def build(
    config: ConfigDict, devices: Sequence[jax.Device], size: Size | None, made: Made = made
) -> Experiment:
    """The experiment of a config on devices and images of which only the numbers are known.

    Args:
      config: the options; those of the data that say how images are read have no meaning here.
      devices: to compile for.
      size: of the data; None: that of a data set with a known name.
      made: makes the experiment on a mesh; protocols of an upper floor have their own.

    Raises:
      InputError: a value is bad, values do not fit each other, or the size is not known.
    """
    options.check(config)
    config = config.copy_and_resolve_references()
    if config.model.dtype == "auto":  # of the devices, not of this machine's
        config.model.dtype = "float32" if devices[0].platform == "cpu" else "bfloat16"
    if devices[0].platform != "gpu":
        config.model.vit.attention = "plain"  # as 'auto' is there
    mesh = meshes.make_mesh(devices, config.mesh.fsdp)
    meshes.check_batch("data.batch_size", config.data.batch_size, mesh)
    return made(config, mesh, size)


def refuse_features(config: ConfigDict) -> None:
    """Refuses a probe whose step has no images.

    Raises:
      InputError: it is on features that are made once.
    """
    if experiment.on_features(config):
        raise InputError(
            "supervised.augment=False: expected True; a probe on features that are made once has "
            "no step worth a plan"
        )


def known(source: str, sizes: Mapping[str, Size], name: str = "") -> Size:
    """The size of a data set by its name.

    Args:
      source: `data.source`.
      sizes: those that are known.
      name: of the set, among them; "": as the source.

    Raises:
      InputError: it is none of them.
    """
    if found := sizes.get(name or source):
        return found
    raise InputError(
        f"data.source={source!r}: its size is not known without it; give --images (and --classes, "
        f"--shape), or one of {', '.join(sizes)}"
    )


def _source(name: str, size: Size) -> Source:
    """A source of that size, of which no image can be read."""
    names = tuple(map(str, range(size.classes)))
    if size.shape:
        images = np.broadcast_to(np.uint8(0), (size.images, *size.shape))
        labels = np.broadcast_to(np.int32(0), size.images) if size.classes else None
        return ArraySource(name, images, labels, names)

    def read(_: int) -> tuple[bytes, int]:
        raise NotImplementedError("nothing is read for a plan")

    return EncodedSource(name, size.images, read, str, bool(size.classes), names)


def batch_shapes(x: Experiment) -> dict[str, Any]:
    """The entries of a training batch as the devices get them."""
    if x.own:
        return x.own.entries
    b, train = x.config.data.batch_size, x.data.train
    pixels = {}
    if isinstance(train, ArraySource):
        pixels = {"image": jax.ShapeDtypeStruct((b, *train.images.shape[1:]), jnp.uint8)}
    else:
        sizes = [view.size or x.config.data.image_size for view in x.task.views]
        pixels = {"crops": tuple(jax.ShapeDtypeStruct((b, s, s, 3), jnp.uint8) for s in sizes)}
    return pixels | dict.fromkeys(
        ("index", "epoch", "label"), jax.ShapeDtypeStruct((b,), jnp.int32)
    )


def useful_operations(x: Experiment) -> int:
    """Operations of the products in loss and gradient of one batch, over all devices.

    Those of the method on views that are ready, computed once: without augmentation, optimizer
    and what `accumulate` or `model.remat` compute again.
    """
    state, key = experiment.abstract_state(x), jax.random.key(0)
    if x.own:  # nothing is computed again, and what makes its images ready has no products
        return operations(_gradient(x, x.task, x.augment), state, x.own.entries, key)
    config = x.config.copy_and_resolve_references()
    config.accumulate, config.model.remat = 1, "none"
    config.model.vit.update(attention="plain", scan=False)
    task = make_task(config, facts_of(config, x.data.train))
    gradient = _gradient(x, task, lambda entries, which: entries["views"][which])
    return operations(gradient, state, ready_shapes(x), key)


def _gradient(x: Experiment, task: Any, view: Callable[[dict[str, Any], int], Any]) -> Callable:
    def gradient(state: Any, entries: dict[str, Any], key: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            params = jax.tree.map(
                lambda p, f: jax.lax.stop_gradient(p) if f else p, params, x.frozen
            )
            batch = Batch(entries, view)
            return task.loss(params, state.method_state, batch, key, state.step)

        return jax.value_and_grad(loss, has_aux=True)(state.params)

    return gradient


def ready_shapes(x: Experiment) -> dict[str, Any]:
    """The entries of a batch whose views are augmented already."""
    b, channels = x.config.data.batch_size, x.data.train.channels
    sizes = [view.size or x.config.data.image_size for view in x.task.views]
    views = tuple(jax.ShapeDtypeStruct((b, s, s, channels), jnp.float32) for s in sizes)
    numbers = {k: v for k, v in batch_shapes(x).items() if k in ("index", "epoch", "label")}
    return {"views": views} | numbers
