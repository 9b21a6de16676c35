"""The length of a run that was made longer, and how schedules go on there."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]


class Course(NamedTuple):
    """The steps of a run.

    Attributes:
      steps: of all.
      ends: where the run was to end before, in turn; () where it was never made longer.
      extension: how schedules go on: 'stretch', over all steps as if these had been meant from the
        start; 'restart', from each end on as those of a new run; 'hold', with their last value.
    """

    steps: int
    ends: tuple[int, ...] = ()
    extension: str = "stretch"


def over(course: Course | int, make: Callable[[int], Schedule]) -> Schedule:
    """The schedule of a course: step -> value; the step may be traced.

    Args:
      course: of the run; a number of steps where it was never made longer.
      make: gives the schedule of a run of so many steps, which keeps its last value after them.
    """
    course = Course(course) if isinstance(course, int) else course
    if not course.ends or course.extension == "stretch":
        return make(course.steps)
    if course.extension == "hold":
        return make(course.ends[0])
    starts = (0, *course.ends)
    lengths = [end - start for start, end in zip(starts, (*course.ends, course.steps))]
    parts = [make(length) for length in lengths]

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step)
        value = parts[0](step)
        for start, part in zip(starts[1:], parts[1:]):
            value = jnp.where(step < start, value, part(step - start))
        return value

    return schedule
