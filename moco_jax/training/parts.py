"""Which of the images that are there a run trains on, tests on and evaluates."""

from moco_jax.config import ConfigDict
from moco_jax.data import pipeline, subset
from moco_jax.data.source import Source, Splits
from moco_jax.errors import InputError


def evaluated(config: ConfigDict, data: Splits) -> Splits:
    """The images of `evals.source`, checked; or the run's own.

    Args:
      config: of the run.
      data: the run's own.

    Raises:
      InputError: they have other channels, or are not as they should be.
    """
    if not config.evals.source:
        return data
    d = config.data.copy_and_resolve_references()
    d.source, d.test_share = config.evals.source, 0.0
    other = pipeline.open_data(d)
    for part in filter(None, other):
        pipeline.check(part, d)
        if part.channels != data.train.channels:
            raise InputError(
                f"evals.source={d.source!r}: images of {part.channels} channels; the training "
                f"images have {data.train.channels}"
            )
    return other


def parts(config: ConfigDict, data: Splits) -> tuple[Splits, Source | None]:
    """The images that are trained on and tested on, and those held out of training, if any.

    Args:
      config: of the run.
      data: all that there are.

    Raises:
      InputError: there are no labels where they are needed, or too few images.
    """
    s, batch_size = config.supervised, config.data.batch_size
    held_out = None
    if config.protocol == "supervised":
        if not data.train.labelled:
            raise InputError(f"protocol='supervised' needs labelled training images; "
                             f"{data.train.name} has none")  # fmt: skip
        if data.test is None or not data.test.labelled:
            raise InputError(f"protocol='supervised' needs labelled test images; {data.train.name} "
                             f"has none: data.test_share=0.2 holds some out")  # fmt: skip
        data = Splits(*map(subset.labelled_only, data))
    train = subset.label_share(data.train, config.data.label_share, config.seed)
    if config.protocol == "supervised" and not s.train_backbone and (s.lrs or s.batch_norm):
        train, held_out = subset.hold_out(train, s.held_out, config.seed)
    pipeline.check(train, config.data, batch_size)
    return data._replace(train=train), held_out
