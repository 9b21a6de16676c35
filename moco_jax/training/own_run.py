"""Evaluating a run needs no repetition: its checkpoint tells its images and its network."""

import logging
from collections.abc import Collection

from moco_jax import config as configs
from moco_jax import places
from moco_jax.bucket import Place, place
from moco_jax.config import ConfigDict
from moco_jax.convert.formats.ours import config_of, is_ours
from moco_jax.data.source import existing

log = logging.getLogger(__name__)

# What a name on the command line decides about: of another source the columns are other ones.
_IMAGES = (
    "data.source", "data.image_column", "data.label_column", "data.levels", "data.test_share",
    "data.test_seed",
)  # fmt: skip
_NETWORK = (
    "model.name", "model.resnet.width", "model.resnet.stem", "model.vit.patch", "model.vit.stem",
    "model.vit.pool", "model.vit.norm", "model.vit.width", "model.vit.depth", "model.vit.heads",
)  # fmt: skip
_SAID = ("data.source", "model.name", "data.image_size", "data.mean", "data.std")
_VIEW = ("data.image_size", "data.mean", "data.std", "data.eval_crop_share")


def take(config: ConfigDict, given: Collection[str] = ()) -> dict[str, object]:
    """Takes images, network, image size, mean and std from the workdir that `init` names.

    Only where `init_recipe` says so. Another source or network than the checkpoint's, on the
    command line, leaves out all that belongs to it.

    Args:
      config: of a run; it is changed.
      given: dotted names of the options that the command line sets: these stay.

    Returns:
      What changed, by name.

    Raises:
      CheckpointError: there is no checkpoint in the workdir, or it is damaged.
    """
    if not (config.init_recipe and config.init):
        return {}
    path = place("config.init", config.init)
    if not is_ours(path):
        return {}
    there, here = (configs.flat(c.to_dict()) for c in (config_of(path), config))
    groups = [group for group in (_IMAGES, _NETWORK) if group[0] not in given]
    names = [name for group in (*groups, _VIEW) for name in group if name not in given]
    if "model.name" in given and config.model.name == "pixels":
        names = [name for name in names if name not in ("data.mean", "data.std")]
    changed = {name: there[name] for name in names if there[name] != here[name]}
    config.update_from_flattened_dict(changed)
    shown = [name for name in names if name in changed or name in _SAID]
    log.info("Taken from %s: %s", path, ", ".join(f"{name}={there[name]}" for name in shown))
    return changed


def check_init(config: ConfigDict, workdir: Place) -> None:
    """Refuses a `config.init` that is not there, before images are read.

    A run that goes on needs it no more; one in a bucket is looked for when it is read.

    Args:
      config: of the run.
      workdir: of the run, which goes on where it has checkpoints.

    Raises:
      MissingError: there is no such file or folder; its nearest sibling is named.
    """
    if config.init and not places.scheme(config.init) and not (workdir / "checkpoints").is_dir():
        existing(config.init)
