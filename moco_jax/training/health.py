"""Whether a run still trains: what is not finite, and what has collapsed."""

import logging
from typing import Any

from moco_jax.checkpoint import Checkpoints
from moco_jax.errors import TrainingDivergedError

log = logging.getLogger(__name__)

COLLAPSED = 1e-3  # feature_std, which is 1 where features fill the sphere and 1e-7 where all agree
ADVICE = "A lower learning rate, a longer warm-up or optim.clip_norm may help"


def judge(checkpoints: Checkpoints, most: int, position: int, in_a_row: int) -> None:
    """Ends the run where too many steps in a row were not finite.

    Args:
      checkpoints: of the run.
      most: `log.max_nonfinite`.
      position: of the last of these steps.
      in_a_row: their number.

    Raises:
      TrainingDivergedError: it says from which checkpoint on the weights are to blame.
    """
    if in_a_row < most:
        return
    held = position - in_a_row  # the last step that changed the weights
    raise TrainingDivergedError(
        f"Loss or gradient was not finite in {in_a_row} steps in a row, up to step {position}. "
        f"They changed nothing: the state is that of step {held}. {_where(checkpoints, held)} "
        f"{ADVICE} (log.max_nonfinite={most})."
    )


def _where(checkpoints: Checkpoints, held: int) -> str:
    """Which checkpoints hold the weights of step `held`, and which ones are of before."""
    checkpoints.wait()
    saved = checkpoints.saved()
    before, same = ([p for p in saved if p < held], [p for p in saved if p >= held])
    text = f"Checkpoint {before[-1]} is good: after it" if before else "No checkpoint is left that"
    text += " a step was finite." if before else " a finite step followed."
    if same:
        text += (
            f" {', '.join(map(str, same))}: these have the weights that gave what is not finite; "
            f"move them away to go on from another."
        )
    return text


def check_end(checkpoints: Checkpoints, most: int, updates: int, skipped: tuple[int, int]) -> None:
    """Judges a run that has made all of its steps; says how many of them were left out.

    Args:
      checkpoints: of the run.
      most: `log.max_nonfinite`.
      updates: steps that changed the weights, of the whole training.
      skipped: steps left out in all, and in a row up to the last.

    Raises:
      TrainingDivergedError: none or not one of the last was finite.
    """
    steps = updates + skipped[0]
    if steps and not updates:
        raise TrainingDivergedError(
            f"Loss or gradient was not finite in any of the {steps} steps: nothing was trained. "
            f"Is something wrong with the images or the first weights? {ADVICE}."
        )
    judge(checkpoints, most, steps, skipped[1])
    if skipped[0]:
        log.warning("%d of %d steps were left out: loss or gradient not finite", skipped[0], steps)


class CollapseWarning:
    """Says once that the features of different images have become the same."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, row: dict[str, Any]) -> None:
        """Looks at a row of metrics."""
        std = row.get("feature_std")
        if not self._said and std is not None and std < COLLAPSED:
            self._said = True
            log.warning(
                "COLLAPSE: the features of different images are all but equal (feature_std %.1g at "
                "step %d; 1 where they fill the sphere). Are the images all alike? %s.",
                std, row["step"], ADVICE,
            )  # fmt: skip
