"""The command: python -m moco_jax preview --config=configs/v2_r50.py --out=views.png.

A picture of eight images and their views as the network sees them. Options of the config can be
overridden: --config.data.source=folder:PATH. Exit codes: 0 done, 2 wrong input.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags
from PIL import Image

from moco_jax import options
from moco_jax.commands.arguments import parse
from moco_jax.commands.terminal import check_writable, guarded
from moco_jax.config import choose
from moco_jax.data import contact_sheet, pipeline
from moco_jax.data.source import log_data
from moco_jax.protocols import make_task
from moco_jax.training import own_run
from moco_jax.training.facts import facts_of

PICTURES = (".jpg", ".png", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the picture; returns the exit code."""
    argv, values = list(sys.argv[1:] if argv is None else argv), flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, "The experiment: configs/NAME.py.", flag_values=values, sys_argv=argv
    )
    out = flags.DEFINE_string("out", "views.png", "The picture to write.", flag_values=values)
    flags.mark_flag_as_required("config", flag_values=values)
    if not argv or {"-h", "--help"} & set(argv):
        print(f"{__doc__}{values.get_help()}")
        return 0

    def run() -> None:
        parse(values, ["preview", *argv])
        options.check(config.value)
        check_writable(out.value)
        choose("the end of --out", pathlib.Path(out.value).suffix.lower(), PICTURES)
        c = config.value
        own_run.take(c, config_flags.get_override_values(values["config"]))
        splits = pipeline.open_data(c.data)
        log_data(splits)
        source = splits.train
        pipeline.check(source, c.data)
        recipes = make_task(c, facts_of(c, source)).views
        picture = contact_sheet.grid(contact_sheet.views(source, c, recipes))
        Image.fromarray(picture).save(out.value)
        print(f"{out.value}: top to bottom the middle of each image, then its views")

    return guarded(run)
