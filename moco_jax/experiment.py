"""An experiment: everything that a config stands for, built and checked before anything runs."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from clu import parameter_overview

from moco_jax import mesh as meshes
from moco_jax.config import ConfigDict, as_json
from moco_jax.data import augment, pipeline, transfer
from moco_jax.data.source import Source, Splits
from moco_jax.evals import features
from moco_jax.evals.knn import KnnMonitor
from moco_jax.methods import Method, make_method
from moco_jax.methods.base import check_accumulate
from moco_jax.methods.moco import warn_about_queue
from moco_jax.optim import describe_optimizer, make_optimizer, make_schedule, parameter_groups
from moco_jax.step import TrainState, init_state, make_train_step

log = logging.getLogger(__name__)


class Experiment(NamedTuple):
    """Everything a config stands for; `build` makes it."""

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


def build(config: ConfigDict) -> Experiment:
    """Builds data, method and optimizer; what is wrong in the config shows here.

    Raises:
      ValueError: a value is bad, or values do not fit each other or the data.
      RuntimeError: the named backend is not there.
    """
    meshes.use_compilation_cache(config.compilation_cache)
    meshes.select_backend(config.backend)
    mesh = meshes.make_mesh(fsdp=config.mesh.fsdp)
    d = config.data
    meshes.check_batch("data.batch_size", d.batch_size, mesh)
    meshes.check_batch("data.eval_batch_size", d.eval_batch_size, mesh)
    data = pipeline.open_data(d)
    pipeline.check(data.train, d, d.batch_size)
    if data.test:
        pipeline.check(data.test, d)
    warn_about_queue(config, len(data.train))
    mean, std = pipeline.channel_stats(data.train, d)
    steps_per_epoch = len(data.train) / d.batch_size
    steps = max(1, round(config.epochs * steps_per_epoch))
    views = augment.make_views((d.view1, d.view2), d.image_size, mean, std, config.seed)
    shape = (d.image_size, d.image_size, data.train.channels)
    method = make_method(config, shape, views, steps)
    check_accumulate(config, mesh.size)
    schedule = make_schedule(config.optim, d.batch_size, steps, steps_per_epoch)
    params, _ = jax.eval_shape(method.init, jax.random.key(config.seed))
    tx = make_optimizer(config.optim, params, schedule, method.layers)
    groups = parameter_groups(config.optim, params)
    frozen = jax.tree.map(lambda group: group == "frozen", groups)
    x = Experiment(
        config, mesh, data, mean, std, method, tx, schedule, frozen, steps, steps_per_epoch
    )
    state_shardings(x)  # refuses what cannot lie on the mesh
    return x


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
      ValueError: the queue is to be split and cannot be.
    """
    return meshes.state_shardings(x.mesh, _state_shapes(x), x.config.mesh.shard_queue)


def _state_shapes(x: Experiment) -> TrainState:
    return jax.eval_shape(partial(init_state, x.method, x.tx), jax.random.key(0))


def train_batches(x: Experiment, start: int) -> pipeline.Prefetcher:
    """Training batches on the mesh from position `start` on."""
    source, c = x.data.train, x.config
    return pipeline.train_batches(source, c.data, c.seed, start, **_transfer(x, source))


def eval_batches(x: Experiment, source: Source, limit: int = 0) -> pipeline.Prefetcher:
    """Evaluation batches of a source, or of `limit` images of it, on the mesh."""
    return pipeline.eval_batches(source, x.config.data, limit, **_transfer(x, source))


def _transfer(x: Experiment, source: Source) -> dict[str, Any]:
    return transfer.options(source, meshes.batched(x.mesh), x.config.data.resident_gb)


def make_monitor(x: Experiment) -> KnnMonitor:
    """The kNN monitor of the experiment's data."""
    return KnnMonitor(x.config.knn, x.data, partial(eval_batches, x), x.mesh)


def make_encode(x: Experiment) -> Callable[[TrainState, dict[str, jax.Array]], jax.Array]:
    """The jitted function from state and evaluation batch to the features of `knn.features`."""
    d, which = x.config.data, ("backbone", "projection").index(x.config.knn.features)

    def encode(state: TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        cropped = x.data.train.image_shape is None
        images = augment.eval_view(
            batch, d.image_size, d.eval_crop_share, x.mean, x.std, cropped=cropped
        )
        return x.method.encode(state.params, state.method_state, images)[which]

    return jax.jit(meshes.inside(x.mesh, encode))


def make_pixels(x: Experiment) -> Callable[[dict[str, jax.Array]], jax.Array]:
    """The jitted function from evaluation batch to raw pixels."""
    return features.make_pixels(x.data.train, x.config.data)


def describe(x: Experiment) -> None:
    """Logs devices, data, recipe, parameters and optimizer masks."""
    c, devices = x.config, x.mesh.devices.ravel()
    log.info("Backend %s: %d x %s", devices[0].platform, len(devices), devices[0].device_kind)
    train, test = x.data
    log.info("Data: %s, %d training images of %d channel(s)%s%s", train.name, len(train),
             train.channels, ", labelled" if train.labelled else "",
             f", {len(test)} test images" if test else "")  # fmt: skip
    log.info(
        "Recipe: %s, %s, %s, batch %d over all devices, learning rate %g (%g x %d / 256), "
        "tau %g, m %g %s, seed %d",
        c.method.name, c.model.name, c.optim.name, c.data.batch_size,
        c.optim.base_lr * c.data.batch_size / 256, c.optim.base_lr, c.data.batch_size,
        c.method.temperature, c.method.ema, c.method.ema_schedule, c.seed,
    )  # fmt: skip
    for number, view in enumerate((c.data.view1, c.data.view2), 1):
        skipped = augment.skipped_operations(view, train.channels)
        if skipped:
            log.info(
                "View %d: no %s: no meaning on images of %d channel(s)",
                number, ", ".join(skipped), train.channels,
            )  # fmt: skip
    params, _ = jax.eval_shape(x.method.init, jax.random.key(0))
    table = parameter_overview.get_parameter_overview(params, include_stats=False)
    log.info("Parameters of the online network:\n%s", table)
    for line in describe_optimizer(c.optim, params, x.method.layers):
        log.info("%s", line)
    log.info(
        "%d steps: %g epochs of %.1f steps; chance loss %.3f",
        x.steps, c.epochs, x.steps_per_epoch, x.method.chance_loss,
    )  # fmt: skip
