"""A step that does not fit its devices is refused before training, with what reduces it."""

from types import SimpleNamespace

import jax
import pytest

from moco_jax import metrics
from moco_jax.cost import rehearsal
from moco_jax.errors import DoesNotFitError, InputError
from moco_jax.training import device_memory, experiment, loop
from tests.tiny import tiny_config, write_npz


@pytest.fixture
def source(tmp_path):
    return write_npz(tmp_path / "images.npz")


def names(x):
    return [text.partition(" (")[0] for text in device_memory.remedies(x, 10**9)]


@pytest.mark.parametrize(
    ("method", "changes", "expected"),
    [
        # Two images a device are one group of BatchNorm: no slices.
        ("v1", {"accumulate": 1}, ["model.remat='products'", "mesh.fsdp=8",
                                   "mesh.shard_queue=True"]),
        ("v1", {"mesh.shard_queue": True, "mesh.fsdp": 8, "model.remat": "products"},
         ["model.remat='full'"]),
        ("v3", {"mesh.fsdp": 8}, ["accumulate=2", "model.remat='products'", "data.batch_size=8"]),
        ("v3", {"accumulate": 2, "model.remat": "full"}, ["mesh.fsdp=8"]),
    ],
)  # fmt: skip
def test_only_options_that_apply_are_named_and_each_can_be_used(method, changes, expected, source):
    c = tiny_config(method, source)
    c.update_from_flattened_dict(changes)
    assert names(experiment.build(c)) == [*expected, "more devices"]
    for text in expected:
        name, _, value = text.partition("=")
        there = tiny_config(method, source)
        there.update_from_flattened_dict(changes | {name: eval(value)})
        experiment.build(there)


def step(arguments, temporary, output=0, alias=0):
    memory = SimpleNamespace(
        argument_size_in_bytes=arguments, temp_size_in_bytes=temporary,
        output_size_in_bytes=output, alias_size_in_bytes=alias,
    )  # fmt: skip
    return SimpleNamespace(memory_analysis=lambda: memory)


def test_the_need_is_held_against_what_the_device_tells(source, monkeypatch):
    x = experiment.build(tiny_config("v3", source))
    device_memory.check_step(x, step(10**15, 10**15))  # a CPU does not tell
    monkeypatch.setattr(device_memory, "capacity", lambda x: 16 * 10**9)
    device_memory.check_step(x, step(4 * 10**9, 12 * 10**9, 2 * 10**9, 2 * 10**9))
    with pytest.raises(DoesNotFitError) as error:
        device_memory.check_step(x, step(4 * 10**9, 12 * 10**9, 2 * 10**9, 10**9))
    assert str(error.value).startswith(
        "the step does not fit: it needs 17.00 GB of 16.00 GB a device (4.00 GB of state and "
        "batch, 13.00 GB beside); what reduces it: accumulate=2 (up to 6.50 GB less), "
    )


def test_a_state_that_does_not_fit_is_refused_before_it_is_made(source, tmp_path, monkeypatch):
    monkeypatch.setattr(device_memory, "capacity", lambda x: 1000)
    monkeypatch.setattr(loop, "first_state", None)
    with pytest.raises(DoesNotFitError, match=r"needs 0.00 GB of 0.00 GB a device; what reduces"):
        loop.run(tiny_config("v3", source), tmp_path / "run")
    assert not (tmp_path / "run" / metrics.FILE).exists()


def test_a_dry_run_gives_an_account_and_writes_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.01)
    c = tiny_config("v3", source)
    lines = "\n".join(rehearsal.rehearse(c, str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
    for part in ("the device does not tell", "Compiled in ", "A step takes ", "for 20 steps"):
        assert part in lines
    state = jax.tree.leaves(experiment.abstract_state(experiment.build(c)))
    assert f"Checkpoints: 3 of {sum(4 * x.size for x in state) / 1e9:.3g} GB, " in lines
    c.protocol, c.supervised.augment = "supervised", False
    with pytest.raises(InputError, match=r"supervised.augment=False"):
        rehearsal.rehearse(c, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("every", "last", "good", "steps", "count"),
    [(0, 3, 0, 20, 1), (5, 3, 0, 20, 3), (5, 1, 10, 20, 2), (5, 1, 10, 22, 3), (5, 9, 0, 22, 5)],
)
def test_checkpoints_at_the_end(every, last, good, steps, count, source):
    c = tiny_config("v3", source).checkpoint
    c.update(every_steps=every, keep_last=last, keep_every_steps=good)
    assert rehearsal.kept(c, steps) == count
