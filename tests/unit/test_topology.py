"""The plan for TPUs that are not there, by the real compiler (make tpu)."""

import pytest

from moco_jax.cost import absent, chips
from moco_jax.cost.estimate import estimate
from moco_jax.errors import DoesNotFitError, InputError
from tests.tiny import IMAGES, SIZE, tiny_config

pytestmark = pytest.mark.tpu


@pytest.fixture(autouse=True, scope="module")
def compiler():
    pytest.importorskip("libtpu", reason="the TPU compiler is not here: make tpu installs it")


@pytest.mark.parametrize(
    ("topology", "count"), [("v4:2x2x1", 4), ("v4:4x4x8", 128), ("v5e:4x8", 32), ("v6e:2x2", 4)]
)
def test_a_device_is_a_chip(topology, count):
    devices = chips.absent_devices(topology)
    assert len(devices) == count
    assert chips.chip_of(devices[0]).name == topology.partition(":")[0]


def test_no_slice_of_that_shape():
    with pytest.raises(InputError, match="--topology=v5e:3x5: "):
        chips.absent_devices("v5e:3x5")


def build(topology, size):
    c = tiny_config("v3", "npz:none.npz")
    c.data.image_size = size
    return absent.build(c, chips.absent_devices(topology), absent.Size(IMAGES, 3, (SIZE, SIZE, 1)))


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x4"])
def test_a_plan(topology):
    e = estimate(build(topology, SIZE))
    assert e.memory < 1e8
    assert 0 < e.useful < e.program.operations
    # On TPU a tiny step is all overhead: its cycles are many times what its bounds allow.
    assert e.expected > max(e.limits.values()) > 0
    assert e.program.collectives["all-reduce"] > 0


def test_what_does_not_fit_says_so():
    x = build("v5e:2x2", 1024)
    with pytest.raises(
        DoesNotFitError, match=r"does not fit: it needs .* of .*; what reduces it: .*more devices"
    ):
        estimate(x)
