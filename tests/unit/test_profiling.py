"""The trace of some steps: which steps it has, and the sums of its operations."""

from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from moco_jax.training import profiling
from tests.memory import empty_bucket


def run(span, steps, workdir, start=0):
    """The markers of the steps that were traced, in order."""
    f = jax.jit(lambda x, _: jnp.tanh(x @ x))
    x = jnp.full((64, 64), 0.01)
    with profiling.profiled(f, span, workdir, start) as step:
        for _ in range(steps):
            x = step(x, None)
    marks = []
    for file in workdir.rglob("*.xplane.pb"):
        profile = jax.profiler.ProfileData.from_file(str(file))
        events = [e for plane in profile.planes for line in plane.lines for e in line.events]
        marks += [dict(e.stats)["step_num"] for e in events if e.name == "train"]
    return sorted(marks)


@pytest.mark.parametrize(
    ("span", "start", "expected"),
    [("2:4", 0, [3, 4]), ("2:4", 3, [4]), ("4:9", 0, [5, 6]), ("2:4", 4, []), ("", 0, [])],
)
def test_the_steps_that_are_traced(span, start, expected, tmp_path):
    """Those of the span that are not done yet, also where the run ends before the span."""
    assert run(span, 6 - start, tmp_path, start) == expected
    assert (tmp_path / "profile.txt").exists() == bool(expected)


@pytest.mark.parametrize("start", [0, 5])
def test_a_workdir_in_a_bucket_gets_it_too(start, monkeypatch):
    workdir = empty_bucket(monkeypatch)
    with profiling.profiled(jax.jit(lambda x, _: x + 1), "0:1", workdir, start) as step:
        step(jnp.zeros(3), None)
    traces = [name for name in workdir.walk() if name.endswith(".xplane.pb")]
    assert len(traces) == (start == 0)
    assert (workdir / "profile.txt").exists() == (start == 0)


def test_a_span_that_is_past_is_said(tmp_path, caplog):
    run("1:2", 1, tmp_path, 5)
    assert "profile='1:2': step 5 is done already" in caplog.text


def test_sums_by_kind():
    def event(milliseconds, **about):
        return SimpleNamespace(duration_ns=1e6 * milliseconds, stats=about.items())

    events = [
        event(3, hlo_op="fusion.12"), event(1, hlo_op="fusion"), event(2, hlo_op="dot.3.clone.1"),
        event(9, hlo_op="while.2"), event(50), event(4, hlo_op="x.1", hlo_category="convolution"),
    ]  # fmt: skip
    lines = [SimpleNamespace(events=events[:3]), SimpleNamespace(events=events[3:])]
    found = profiling.times(SimpleNamespace(planes=[SimpleNamespace(lines=lines)]))
    assert found == pytest.approx({"fusion": 0.004, "dot": 0.002, "convolution": 0.004})
    assert profiling.describe(found).splitlines()[0].split() == ["40.0%", "4.00", "ms", "fusion"]
    many = profiling.describe(Counter({f"k{i}": 1.0 for i in range(20)})).splitlines()
    assert many[-1].split() == ["25.0%", "5000.00", "ms", "all", "others"]
    assert profiling.describe(Counter()) == "no operation was traced"
