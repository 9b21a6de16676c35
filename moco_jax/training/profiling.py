"""A trace of some steps of a run, and a summary of what their time went to."""

import contextlib
import logging
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax

from moco_jax import files
from moco_jax.bucket import Place, filled

log = logging.getLogger(__name__)

FOLDER, SUMMARY = "profile", "profile.txt"  # in the workdir
_ENCLOSING = ("while", "call", "conditional")  # their time is that of what they enclose
_SHOWN = 15  # kinds of operations
Step = Callable[[Any, Any], Any]


@contextlib.contextmanager
def profiled(step: Step, span: str, workdir: Place, start: int) -> Iterator[Step]:
    """The step (state, batch) -> results, which traces itself from one step of a run to another.

    The trace has a marker for each step; TensorBoard, XProf and Perfetto read it. Process 0
    writes it, of its own devices.

    Args:
      step: whose first call is step `start` + 1 of the run.
      span: `config.profile`.
      workdir: of the run, which gets `profile/` and `profile.txt`.
      start: steps that are done.
    """
    if not span or jax.process_index():
        yield step
        return
    first, last = map(int, span.split(":"))
    position, tracing = start, False
    if start >= last:
        log.warning("profile=%r: step %d is done already, nothing is traced", span, start)

    def traced(state: Any, batch: Any) -> Any:
        nonlocal position, tracing
        if not tracing and first <= position < last:
            jax.profiler.start_trace(folder)
            tracing = True
        position += 1
        with jax.profiler.StepTraceAnnotation("train", step_num=position):
            results = step(state, batch)
        if tracing and position == last:
            jax.block_until_ready(results)
            tracing = _end(folder, workdir)
        return results

    with filled(workdir / FOLDER) as folder:
        try:
            yield traced
        finally:
            if tracing:
                _end(folder, workdir)


def _end(folder: pathlib.Path, workdir: Place) -> bool:
    """Writes trace and summary; False: nothing is traced any more."""
    jax.profiler.stop_trace()
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    text = describe(times(jax.profiler.ProfileData.from_file(str(newest))))
    files.write(workdir / SUMMARY, text + "\n")
    log.info("Profile in %s\n%s", workdir / FOLDER, text)
    return False


def times(profile: Any) -> Counter:
    """Seconds of each kind of operation on the devices, from a `jax.profiler.ProfileData`.

    A kind is the compiler's category where the trace has it (TPU), else the operation's name
    without its number.
    """
    seconds = Counter()
    for event in (e for plane in profile.planes for line in plane.lines for e in line.events):
        about = dict(event.stats)
        name = about.get("hlo_category") or about.get("hlo_op")
        if not name:
            continue
        kind = re.sub(r"[.\d]+(clone[.\d]*)?$", "", str(name))
        if kind not in _ENCLOSING:
            seconds[kind] += event.duration_ns / 1e9
    return seconds


def describe(seconds: Counter) -> str:
    """The kinds that took most, a line each, with their shares."""
    total = sum(seconds.values())
    if not total:
        return "no operation was traced"
    shown = seconds.most_common(_SHOWN)
    if len(seconds) > _SHOWN:
        shown.append(("all others", total - sum(s for _, s in shown)))
    return "\n".join(f"{s / total:6.1%} {1e3 * s:10.2f} ms  {kind}" for kind, s in shown)
