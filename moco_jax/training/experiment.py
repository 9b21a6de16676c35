"""An experiment: everything that a config stands for, built and checked before anything runs."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from moco_jax import mesh as meshes
from moco_jax import options
from moco_jax.config import FEATURES, ConfigDict, as_json
from moco_jax.data import augment, pipeline, transfer
from moco_jax.data.fingerprint import fingerprint
from moco_jax.data.source import Source, Splits
from moco_jax.evals.knn_options import check_bank
from moco_jax.methods.method import Batch, Method
from moco_jax.methods.networks import check_accumulate
from moco_jax.models import resolve_dtype
from moco_jax.ops.course import Course
from moco_jax.optim import make_schedule
from moco_jax.protocols import make_task
from moco_jax.protocols.supervised import Supervised
from moco_jax.training.facts import facts_of
from moco_jax.training.own import Own
from moco_jax.training.parts import evaluated, parts
from moco_jax.training.step import TrainState, init_state, make_train_step
from moco_jax.training.task_optimizer import optimizer_of


class Experiment(NamedTuple):
    """Everything a config stands for; `build` makes it.

    Attributes:
      mesh: over all devices.
      mean, std: per channel, of pixels in [0, 1].
      tx, schedule: the optimizer, and its learning rate by step.
      steps, steps_per_epoch: of the run; an epoch's may be fractional.
      evaluated: the images that evaluations look at: of `evals.source`, or the run's own.
      augment: (entries of a batch, which) -> a view; see `methods.method.Batch`.
      task: the method, or the protocol on labels.
      frozen: tree of bool over the parameters.
      found: what the config leaves open: 'backend', 'dtype', and 'images' as in
        `data.fingerprint`.
      held_out: training images that are not trained on, to choose among heads; or None.
      shapes: of the state, traced once; None: whenever they are asked for.
      own: of a protocol of an upper floor.
    """

    config: ConfigDict
    mesh: jax.sharding.Mesh
    data: Splits
    evaluated: Splits
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Callable[[dict[str, Any], int], jax.Array]
    task: Method | Supervised
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    frozen: Any
    steps: int
    steps_per_epoch: float
    found: dict[str, Any]
    held_out: Source | None = None
    shapes: TrainState | None = None
    own: Own | None = None


def build(config: ConfigDict) -> Experiment:
    """Builds data, method and optimizer; what is wrong in the config shows here.

    Raises:
      InputError: a value is bad, or values do not fit each other or the data.
      BackendError: the named backend is not there.
    """
    mesh, d = checked(config), config.data
    data = pipeline.open_data(d)
    pipeline.check(data.train, d)
    if data.test:
        pipeline.check(data.test, d)
    mean, std = pipeline.channel_stats(data.train, d)
    found = computed(config, mesh) | {"images": fingerprint(data)}
    if config.protocol == "supervised":
        found["classes"] = list(data.train.class_names)
    data, held_out = parts(config, data)
    x = assemble(config, mesh, data, (mean, std))
    x = x._replace(evaluated=evaluated(config, data), found=found, held_out=held_out)
    if "knn" in config.evals.names and not on_features(config):
        check_bank(config.knn, x.evaluated)
    return x


def checked(config: ConfigDict) -> jax.sharding.Mesh:
    """The mesh of a run whose options are in their ranges, and whose batches fit the devices.

    Raises:
      InputError: they are not.
      BackendError: the named backend is not there.
    """
    options.check(config)
    meshes.use_compilation_cache(config.compilation_cache)
    meshes.select_backend(config.backend)
    mesh = meshes.make_mesh(fsdp=config.mesh.fsdp)
    meshes.check_batch("data.batch_size", config.data.batch_size, mesh)
    meshes.check_batch("data.eval_batch_size", config.data.eval_batch_size, mesh)
    return mesh


def computed(config: ConfigDict, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Of `Experiment.found` what the devices decide: 'backend' and 'dtype'.

    Args:
      config: the options.
      mesh: over the devices.
    """
    dtype = resolve_dtype(config.model.dtype).name
    return {"backend": mesh.devices.flat[0].platform, "dtype": dtype}


def assemble(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    data: Splits,
    channels: tuple[tuple[float, ...], tuple[float, ...]],
) -> Experiment:
    """The experiment of a config that is checked and of data that is open; nothing is read.

    Args:
      config: the options.
      mesh: over the devices, which need not be there.
      data: what is trained on and tested on.
      channels: mean and standard deviation of each channel.

    Raises:
      InputError: values do not fit each other, the data or the devices.
    """
    facts = facts_of(config, data.train)
    task = make_task(config, facts)
    check_accumulate(config, mesh.size)
    views = augment.make_views(task.views, config.data.image_size, *channels, config.seed)
    return composed(config, mesh, data, channels, task, views, facts.steps)


def composed(
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    data: Splits,
    channels: tuple[tuple[float, ...], tuple[float, ...]],
    task: Any,
    views: Callable[[dict[str, Any], int], jax.Array],
    course: Course,
) -> Experiment:
    """As `assemble`, with what is trained.

    Args:
      config: the options.
      mesh: over the devices.
      data: what is trained on and tested on.
      channels: mean and standard deviation of each.
      task: what is trained.
      views: `Experiment.augment`.
      course: the steps.

    Raises:
      InputError: values do not fit each other, the data or the devices.
    """
    batch_size, (mean, std) = config.data.batch_size, channels
    steps_per_epoch = len(data.train) / batch_size
    schedule = make_schedule(config.optim, batch_size, course, steps_per_epoch)
    params, _ = jax.eval_shape(task.init, jax.random.key(config.seed))
    tx, frozen = optimizer_of(config.optim, task, params, schedule)
    x = Experiment(
        config=config,
        mesh=mesh,
        data=data,
        evaluated=data,
        mean=mean,
        std=std,
        augment=views,
        task=task,
        tx=tx,
        schedule=schedule,
        frozen=frozen,
        steps=course.steps,
        steps_per_epoch=steps_per_epoch,
        found={},
    )
    x = x._replace(shapes=_state_shapes(x))
    state_shardings(x)  # refuses what cannot lie on the mesh
    return x


def on_features(config: ConfigDict) -> bool:
    """Whether a probe trains on features that are made once, not on images."""
    return config.protocol == "supervised" and not config.supervised.augment


def recorded(x: Experiment, **found: Any) -> dict[str, Any]:
    """The config as JSON, with the channels' mean and std where these were left to be found.

    Under 'found' is what else was found when the run was built, or is given here. So a checkpoint
    can be used, and its run be told from another, without the training images.
    """
    config = as_json(x.config)
    config["data"] |= {"mean": list(x.mean), "std": list(x.std)}
    return config | {"found": x.found | found}


def make_step(x: Experiment) -> Callable:
    """The jitted training step (state, entries of a batch) -> (state, metrics).

    It takes over (donates) the state.
    """
    step = make_train_step(x.task, x.tx, x.schedule, x.frozen, x.config.seed)
    state = state_shardings(x)

    # Its name is the program's: in a cache of programs, a profile, a message.
    def train_step(state: TrainState, entries: dict[str, jax.Array]):
        return step(state, Batch(entries, x.augment))

    return jax.jit(
        meshes.inside(x.mesh, train_step),
        in_shardings=(state, meshes.batched(x.mesh)),
        out_shardings=(state, meshes.replicated(x.mesh)),
        donate_argnums=0,
    )


def fresh_state(x: Experiment) -> TrainState:
    """The state before the first step, on the mesh."""
    init = jax.jit(partial(init_state, x.task, x.tx), out_shardings=state_shardings(x))
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
      InputError: an array is to be split by rows and cannot be.
    """
    layout = TrainState(
        step=meshes.WHOLE,
        skipped=meshes.WHOLE,
        params=meshes.PARAMETERS,
        opt_state=meshes.PARAMETERS,
        method_state=x.task.layout,
    )
    return meshes.state_shardings(x.mesh, _state_shapes(x), layout)


def _state_shapes(x: Experiment) -> TrainState:
    return x.shapes or jax.eval_shape(partial(init_state, x.task, x.tx), jax.random.key(0))


def train_batches(x: Experiment, start: int) -> pipeline.Prefetcher:
    """Training batches of `x` on its mesh, from position `start` on."""
    if x.own:
        return x.own.batches(start)
    source, c = x.data.train, x.config
    return pipeline.train_batches(
        source, c.data, c.seed, start, views=x.task.views, **_transfer(x, source)
    )


def eval_batches(x: Experiment, source: Source, limit: int = 0) -> pipeline.Prefetcher:
    """Evaluation batches of a `source`, or of `limit` images of it, on the mesh of `x`."""
    return pipeline.eval_batches(source, x.config.data, limit, **_transfer(x, source))


def _transfer(x: Experiment, source: Source) -> dict[str, Any]:
    return transfer.options(source, meshes.batched(x.mesh), x.config.data.resident_gb)


def make_encode(
    x: Experiment, features: str | None = None
) -> Callable[[TrainState, dict[str, Any]], jax.Array]:
    """The jitted function from state and batch of `x` to `features`; None: `knn.features`."""
    which = FEATURES.index(features or x.config.knn.features)

    def encode(state: TrainState, batch: dict[str, Any]) -> jax.Array:
        return x.task.encode(state.params, state.method_state, eval_images(x, batch))[which]

    return jax.jit(meshes.inside(x.mesh, encode))


def eval_images(x: Experiment, batch: dict[str, Any]) -> jax.Array:
    """What evaluation sees of a batch: (B, S, S, C) float32, normalized."""
    d = x.config.data
    return augment.eval_view(batch, d.image_size, d.eval_crop_share, x.mean, x.std)
