"""An experiment: everything that a config stands for, built and checked before anything runs."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from clu import parameter_overview

from moco_jax import mesh as meshes
from moco_jax.config import FEATURES, ConfigDict, as_json, views_of
from moco_jax.data import augment, pipeline, subset, transfer
from moco_jax.data.source import Source, Splits
from moco_jax.errors import InputError
from moco_jax.evals import extraction
from moco_jax.evals.accuracy import Accuracy, accuracy
from moco_jax.evals.knn_accuracy import KnnMonitor
from moco_jax.methods import Method, make_method
from moco_jax.methods.base import check_accumulate
from moco_jax.methods.moco import warn_about_queue
from moco_jax.optim import (
    describe_optimizer,
    make_heads_optimizer,
    make_optimizer,
    make_schedule,
    one_head,
    parameter_groups,
)
from moco_jax.training.step import TrainState, init_state, make_train_step

log = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """Everything a config stands for; `build` makes it.

    Attributes:
      held_out: training images that are not trained on, to choose among heads; or None.
      frozen: tree of bool over the parameters.
    """

    config: ConfigDict
    mesh: jax.sharding.Mesh
    data: Splits
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    frozen: Any
    steps: int
    steps_per_epoch: float
    held_out: Source | None = None


def build(config: ConfigDict) -> Experiment:
    """Builds data, method and optimizer; what is wrong in the config shows here.

    Raises:
      InputError: a value is bad, or values do not fit each other or the data.
      RuntimeError: the named backend is not there.
    """
    meshes.use_compilation_cache(config.compilation_cache)
    meshes.select_backend(config.backend)
    mesh = meshes.make_mesh(fsdp=config.mesh.fsdp)
    d = config.data
    meshes.check_batch("data.batch_size", d.batch_size, mesh)
    meshes.check_batch("data.eval_batch_size", d.eval_batch_size, mesh)
    data = pipeline.open_data(d)
    pipeline.check(data.train, d)
    if data.test:
        pipeline.check(data.test, d)
    mean, std = pipeline.channel_stats(data.train, d)
    data, held_out = _parts(config, data)
    warn_about_queue(config, len(data.train))
    steps_per_epoch = len(data.train) / d.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    views = augment.make_views(views_of(config), d.image_size, mean, std, config.seed)
    if on_features(config):
        views = lambda batch, which: batch["image"]  # noqa: E731
    shape = (d.image_size, d.image_size, data.train.channels)
    method = make_method(config, shape, views, steps, subset.count_classes(data.train))
    check_accumulate(config, mesh.size)
    schedule = make_schedule(config.optim, d.batch_size, steps, steps_per_epoch)
    params, _ = jax.eval_shape(method.init, jax.random.key(config.seed))
    tx, frozen = _optimizer(config.optim, method, params, schedule)
    x = Experiment(
        config, mesh, data, mean, std, method, tx, schedule, frozen, steps, steps_per_epoch,
        held_out,
    )  # fmt: skip
    state_shardings(x)  # refuses what cannot lie on the mesh
    return x


def _parts(config: ConfigDict, data: Splits) -> tuple[Splits, Source | None]:
    """The images that are trained on and tested on, and those held out of training, if any."""
    s, batch_size = config.supervised, config.data.batch_size
    train, held_out = subset.label_share(data.train, config.data.label_share, config.seed), None
    if config.method.name == "supervised":
        for part, what in ((data.train, "training"), (data.test, "test")):
            if part is None or not part.labelled:
                raise InputError(f"method.name='supervised' needs labelled {what} images; "
                                 f"{data.train.name} has none")  # fmt: skip
        if not s.train_backbone and (s.lrs or s.batch_norm):
            train, held_out = subset.hold_out(train, s.held_out, config.seed)
    pipeline.check(train, config.data, batch_size)
    return data._replace(train=train), held_out


def _optimizer(
    optim: ConfigDict, method: Method, params: Any, schedule: optax.Schedule
) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer, and the tree of bool that says which parameters it leaves alone."""
    if method.heads:
        frozen = {
            name: jax.tree.map(lambda _, here=name: here != "classifier", part)
            for name, part in params.items()
        }
        return make_heads_optimizer(optim, params, schedule, method.heads), frozen
    groups = parameter_groups(optim, params)
    frozen = jax.tree.map(lambda group: group == "frozen", groups)
    return make_optimizer(optim, params, schedule, method.layers), frozen


def on_features(config: ConfigDict) -> bool:
    """Whether a probe trains on features that are made once, not on images."""
    return config.method.name == "supervised" and not config.supervised.augment


def recorded(x: Experiment) -> dict[str, Any]:
    """The config as JSON, with the channels' mean and std where these were left to be found.

    So a checkpoint can be used, and its run be told from another, without the training images.
    """
    config = as_json(x.config)
    config["data"] |= {"mean": list(x.mean), "std": list(x.std)}
    return config


def make_step(x: Experiment) -> Callable:
    """The jitted training step; it takes over (donates) the state."""
    step = make_train_step(x.method, x.tx, x.schedule, x.frozen, x.config.seed)
    state = state_shardings(x)
    return jax.jit(
        meshes.inside(x.mesh, step),
        in_shardings=(state, meshes.batched(x.mesh)),
        out_shardings=(state, meshes.replicated(x.mesh)),
        donate_argnums=0,
    )


def fresh_state(x: Experiment) -> TrainState:
    """The state before the first step, on the mesh."""
    init = jax.jit(partial(init_state, x.method, x.tx), out_shardings=state_shardings(x))
    return init(jax.random.key(x.config.seed))


def abstract_state(x: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the state, without making it."""
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
        _state_shapes(x),
        state_shardings(x),
    )


def state_shardings(x: Experiment) -> TrainState:
    """How the state lies on the mesh.

    Raises:
      InputError: the queue is to be split and cannot be.
    """
    return meshes.state_shardings(x.mesh, _state_shapes(x), x.config.mesh.shard_queue)


def _state_shapes(x: Experiment) -> TrainState:
    return jax.eval_shape(partial(init_state, x.method, x.tx), jax.random.key(0))


def train_batches(x: Experiment, start: int) -> pipeline.Prefetcher:
    """Training batches on the mesh from position `start` on."""
    source, c = x.data.train, x.config
    return pipeline.train_batches(
        source, c.data, c.seed, start, views=len(views_of(c)), **_transfer(x, source)
    )


def eval_batches(x: Experiment, source: Source, limit: int = 0) -> pipeline.Prefetcher:
    """Evaluation batches of a source, or of `limit` images of it, on the mesh."""
    return pipeline.eval_batches(source, x.config.data, limit, **_transfer(x, source))


def _transfer(x: Experiment, source: Source) -> dict[str, Any]:
    return transfer.options(source, meshes.batched(x.mesh), x.config.data.resident_gb)


def make_monitor(x: Experiment) -> KnnMonitor:
    """The kNN monitor of the experiment's data."""
    return KnnMonitor(x.config.knn, x.data, partial(eval_batches, x), x.mesh)


def make_encode(
    x: Experiment, features: str | None = None
) -> Callable[[TrainState, dict[str, jax.Array]], jax.Array]:
    """The jitted function from state and evaluation batch to features; None: `knn.features`."""
    which = FEATURES.index(features or x.config.knn.features)

    def encode(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        return x.method.encode(state.params, state.method_state, eval_images(x, batch))[which]

    return jax.jit(meshes.inside(x.mesh, encode))


def eval_images(x: Experiment, batch: dict[str, jax.Array]) -> jax.Array:
    """What evaluation sees of a batch: (B, S, S, C) float32, normalized."""
    d, cropped = x.config.data, x.data.train.image_shape is None
    return augment.eval_view(batch, d.image_size, d.eval_crop_share, x.mean, x.std, cropped=cropped)


def make_accuracy(x: Experiment) -> Callable[..., Accuracy]:
    """The function (state, source, limit=0) -> the accuracy of each head.

    The source has images, or their features already.
    """

    def predict(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        features = batch["image"]
        if extraction.ndim > 2:
            images = eval_images(x, batch)
            features, _ = x.method.encode(state.params, state.method_state, images)
        return x.method.classify(state.params, state.method_state, features)

    predict = jax.jit(meshes.inside(x.mesh, predict))

    def measure(state: TrainState, source: Source, limit: int = 0) -> Accuracy:
        return accuracy(partial(predict, state), eval_batches(x, source, limit))

    return measure


def make_pixels(x: Experiment) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """The jitted function from evaluation batch to raw pixels."""
    return extraction.make_pixels(x.data.train, x.config.data)


def describe(x: Experiment) -> None:
    """Logs devices, data, recipe, parameters and optimizer masks."""
    c, devices = x.config, x.mesh.devices.ravel()
    log.info("Backend %s: %d x %s", devices[0].platform, len(devices), devices[0].device_kind)
    train, test = x.data
    log.info("Data: %s, %d training images of %d channel(s)%s%s", train.name, len(train),
             train.channels, ", labelled" if train.labelled else "",
             f", {len(test)} test images" if test else "")  # fmt: skip
    log.info(
        "Recipe: %s (%s), %s, %s, batch %d over all devices, learning rate %g (%g x %d / 256), "
        "seed %d",
        c.method.name, x.method.recipe, c.model.name, c.optim.name, c.data.batch_size,
        c.optim.base_lr * c.data.batch_size / 256, c.optim.base_lr, c.data.batch_size, c.seed,
    )  # fmt: skip
    for number, view in enumerate(views_of(c), 1):
        skipped = augment.skipped_operations(view, train.channels)
        if skipped:
            log.info(
                "View %d: no %s: no meaning on images of %d channel(s)",
                number, ", ".join(skipped), train.channels,
            )  # fmt: skip
    params, _ = jax.eval_shape(x.method.init, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    log.info("Parameters of the online network:\n%s", table)
    if x.method.heads:
        log.info("Trained: a classifier with %d heads, each like this one:", len(x.method.heads))
        params = one_head(params)
    for line in describe_optimizer(c.optim, params, x.method.layers):
        log.info("%s", line)
    log.info(
        "%d steps: %g epochs of %.1f steps; chance loss %.3f",
        x.steps, c.epochs, x.steps_per_epoch, x.method.chance_loss,
    )  # fmt: skip
