"""Whether a probe left its backbone alone: not one bit may be another than at the start."""

import json
import logging
from typing import Any

import jax

from moco_jax import files
from moco_jax.checkpoint import checksums_of, named
from moco_jax.errors import CheckpointError
from moco_jax.evals.evaluation import Context, Evaluation, Measure

log = logging.getLogger(__name__)

BACKBONE = ("params/backbone/", "method_state/stats/backbone/")
CHECKSUMS = "backbone.json"


def backbone(state: Any) -> dict[str, jax.Array]:
    """The arrays of the backbone by name, statistics included."""
    return {name: leaf for name, leaf in named(state).items() if name.startswith(BACKBONE)}


def _make(context: Context) -> Measure | None:
    """Compares the checksums at the end with those of the start, kept in the workdir."""
    if not getattr(context.task, "heads", ()):
        return None
    file = context.workdir / CHECKSUMS

    def measure(state: Any, position: int) -> dict[str, float]:
        sums = checksums_of(backbone(state))
        if jax.process_index() > 0:
            return {}
        if position == 0:
            files.write(file, json.dumps(sums, indent=1) + "\n")
            return {}
        first = files.read_json(file, dict)
        if not first:
            log.warning("%s is gone: whether the backbone changed is not known", file)
            return {}
        changed = sorted(name for name in first | sums if first.get(name) != sums.get(name))
        if changed:
            raise CheckpointError(
                f"The backbone changed in a linear probe: {', '.join(changed[:3])} "
                f"({len(changed)} of {len(sums)} arrays)"
            )
        log.info("Backbone unchanged: the checksums of its %d arrays are the first ones", len(sums))
        return {}

    return measure


UNCHANGED = Evaluation(_make, lambda config: 0.0)
