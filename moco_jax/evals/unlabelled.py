"""Evaluations that need no labels: effective rank, alignment and uniformity, spread.

N images, F features.
"""

import logging
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from moco_jax.errors import NotFiniteError
from moco_jax.evals.evaluation import Context, Evaluation, Measure, is_pretraining
from moco_jax.ops.losses import feature_std
from moco_jax.ops.representation import alignment, rank_me, uniformity

log = logging.getLogger(__name__)


def _every(config: ConfigDict) -> float:
    return config.evals.every_epochs


def _of_features(name: str, measure: Callable[[np.ndarray], float]) -> Evaluation:
    """A measure of the backbone's features of some images."""

    def make(context: Context) -> Measure | None:
        if not is_pretraining(context.config):
            return None
        return _finite((name,), lambda *at: {name: measure(context.sample(*at))})

    return Evaluation(make, _every)


def _alignment_uniformity(context: Context) -> Measure | None:
    if not is_pretraining(context.config) or len(context.task.views) < 2:
        return None

    def run(state: object, _: int) -> dict[str, float]:
        x, y = context.two_views(state, context.config.evals.images)
        return {"alignment": alignment(x, y), "uniformity": uniformity(x)}

    return _finite(("alignment", "uniformity"), run)


def _finite(names: tuple[str, ...], run: Measure) -> Measure:
    """`run`, whose features may not be finite in a network that diverges: NaN and a line then."""

    def measure(state: object, position: int) -> dict[str, float]:
        try:
            return run(state, position)
        except NotFiniteError as error:
            log.error("%s: not measured: %s", ", ".join(names), error)
            return dict.fromkeys(names, float("nan"))

    return measure


def _std(features: np.ndarray) -> float:
    return float(jax.jit(feature_std)(features))


RANK_ME = _of_features("rank_me", rank_me)
BACKBONE_STD = _of_features("backbone_std", _std)
ALIGNMENT_UNIFORMITY = Evaluation(_alignment_uniformity, _every)
