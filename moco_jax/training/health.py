"""Whether a run still trains: what is not finite, what spikes, dips or has collapsed."""

import logging
from collections.abc import Iterable

from moco_jax import signs
from moco_jax.checkpoint import Checkpoints
from moco_jax.config import ConfigDict
from moco_jax.errors import TrainingDivergedError
from moco_jax.signs import Row

log = logging.getLogger(__name__)

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


class Monitor:
    """Looks at each row of a run for signs of trouble; says the first of each kind, with advice."""

    def __init__(self, config: ConfigDict, caution: str, before: Iterable[Row] = ()):
        """Takes the config, `Method.caution`, and the rows of a run that goes on."""
        self._config, self._caution = config, caution
        self._observe = signs.Observer()
        self._said: set[str] = set()
        for row in before:
            self._said |= {*self._observe(row), *row.get("signs", ())}

    def __call__(self, row: Row) -> Row:
        """What a row gets beside: the names of the signs that begin in it, if any."""
        begun = self._observe(row)
        if self._caution and not row["step"]:
            begun.append(signs.CAUTION)
        for name in begun:
            if name not in self._said:
                log.warning("%s", self._caution if name == signs.CAUTION else self._text(name, row))
        self._said |= set(begun)
        return {"signs": begun} if begun else {}

    def _text(self, name: str, row: Row) -> str:
        column, value = signs.shown(name, row)
        text = _WHAT[name].format(value=value, column=column, step=row["step"])
        return f"{text} {self._advice(name)} Later ones are marked in report.html."

    def _advice(self, name: str) -> str:
        """What the papers found to help, as far as the run does not have it."""
        c, found = self._config, ""
        trained = not any("patch_embed" in pattern for pattern in c.optim.freeze)
        patch = c.model.name.startswith("vit") and c.model.vit.stem == "patch" and trained
        if name in ("spike", "dip") and patch and c.protocol == "pretraining":
            found = (
                "MoCo v3 found a ViT stable with the patch projection frozen at its random values "
                "(arXiv:2104.02057, section 4): optim.freeze=('backbone/patch_embed',). "
            )
        if name in ("fall", "collapse") and c.method.name == "moco" and c.method.ema < 0.9:
            found = (
                "MoCo v1 found that with a queue the key encoder must move slowly "
                f"(arXiv:1911.05722, 4.1): method.ema={c.method.ema:g}, where 0.99 and more works. "
            )
        return f"{found}{ADVICE}."


_WHAT = {
    "spike": (
        "SPIKE: the gradient norm of the first layer, {value:.3g} at step {step}, is more than "
        f"{signs.SPIKE:g} times the median of the {signs.WINDOW} rows before. Instability starts "
        "so; some tens of steps later it reaches the last layer."
    ),
    "dip": (
        "DIP: kNN top-1 is {value:.1%} at step {step}, "
        f"{100 * signs.DIP:g} points or more below the best before, a sign of instability."
    ),
    "fall": (
        "RANK: RankMe is {value:.1f} at step {step}, less than "
        f"{signs.FALL:g} of the largest before: the features use fewer directions."
    ),
    "collapse": (
        "COLLAPSE: the features of different images are all but equal (feature_std {value:.1g} at "
        "step {step}; 1 where they fill the sphere). Are the images all alike?"
    ),
}


def recount(rows: Iterable[Row]) -> list[str]:
    """The signs of a whole run, a line for each kind that there was."""
    return [
        f"Sign of trouble: {signs.TITLES[name]}, {len(there)} x, first at step {there[0]['step']}"
        for name, there in signs.find(rows).items()
    ]
