"""The command: python -m moco_jax plan --config=configs/v3_vit.py:b16 --topology=v4:4x4x8.

Compiles the training step of a config for a TPU slice that is not there (`pip install
'.[tpu]'`), or without --topology for the devices that are here, and prints what a chip needs
and the bounds that its data sheet sets. Nothing runs, and no image is read: ImageNet, CIFAR, COCO,
VOC and Cityscapes are known by name, of others --images and --classes tell the numbers. Options of
the config can be overridden: --config.data.batch_size=512. Exit codes: 0 done, 2 wrong input, or it
does not fit.
"""

import sys
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from moco_jax import mesh as meshes
from moco_jax.commands.arguments import parse
from moco_jax.commands.terminal import guarded
from moco_jax.commands.upper import upper
from moco_jax.cost import absent, chips
from moco_jax.cost.estimate import describe, estimate
from moco_jax.errors import InputError
from moco_jax.training.experiment import Experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the plan; returns the exit code."""
    argv, values = list(sys.argv[1:] if argv is None else argv), flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "The experiment: configs/NAME.py.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("topology", "", "v4:4x4x8, v5e:4x8 ...; '': what is here.",
                        flag_values=values)  # fmt: skip
    flags.DEFINE_float("price", 0.0, "Of an hour of one chip.", 0.0, flag_values=values)
    flags.DEFINE_integer("images", 0, "Of the data set.", 0, flag_values=values)
    flags.DEFINE_integer("classes", 0, "Of the data set; 0: no labels.", 0, flag_values=values)
    flags.DEFINE_list("shape", [], "H,W,C of small images that lie in memory as one array; "
                      "'': encoded ones, cropped by the host.", flag_values=values)  # fmt: skip
    flags.mark_flag_as_required("config", flag_values=values)
    if not argv or {"-h", "--help"} & set(argv):
        print(f"{__doc__}{values.get_help()}")
        return 0

    def run() -> None:
        parse(values, ["plan", *argv])
        meshes.use_compilation_cache(config.value.compilation_cache)
        devices = _devices(values["topology"].value, config.value.backend)
        x = build(config.value, devices, _size(values))
        print("\n".join(describe(estimate(x), values["price"].value)))

    return guarded(run)


def build(
    config: ConfigDict, devices: Sequence[jax.Device], size: absent.Size | None
) -> Experiment:
    """`absent.build` for any protocol.

    Args:
      config: the options.
      devices: to compile for.
      size: of the data; None: that of a data set with a known name.
    """
    room = upper(config)
    return absent.build(config, devices, size, room.planned if room else absent.made)


def _devices(topology: str, backend: str) -> Sequence[jax.Device]:
    if not topology:
        meshes.select_backend(backend)
        return jax.devices()
    jax.config.update("jax_platforms", "cpu")
    return chips.absent_devices(topology)


def _size(values: flags.FlagValues) -> absent.Size | None:
    """What the flags say of the data set; None where they say nothing."""
    images, classes, shape = (values[name].value for name in ("images", "classes", "shape"))
    if not images:
        if classes or shape:
            raise InputError("--classes and --shape describe the images that --images counts")
        return None
    if not all(side.isdigit() and int(side) for side in shape) or len(shape) not in (0, 3):
        raise InputError(f"--shape={','.join(shape)}: expected H,W,C, as 32,32,3")
    return absent.Size(images, classes, tuple(map(int, shape)))
