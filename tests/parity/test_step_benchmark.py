"""The peer of `benchmarks.step` does what our step does: as many weights, as many operations."""

import jax
import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.torch_step import Peer
from moco_jax.cost import absent
from moco_jax.errors import InputError
from moco_jax.training import experiment
from tests.tiny import tiny_config

pytestmark = pytest.mark.parity
SIZE = 32


def config(method):
    c = tiny_config(method, "npz:none.npz")
    c.data.image_size = SIZE
    if method == "v3":
        c.model.vit.update(width=64, depth=2, heads=2, patch=8)
    else:
        c.model.name, c.model.resnet.stem = "resnet18", "cifar"
    return c


@pytest.mark.parametrize(("method", "least", "most"), [("v2", 1.0, 1.2), ("v3", 0.99, 1.01)])
def test_weights_and_operations(method, least, most):
    """PyTorch's counter counts the padding of convolutions, which ours does not: 15% here."""
    c = config(method)
    x = absent.build(c, jax.devices()[:1], absent.Size(80, 0, (SIZE, SIZE, 3)))
    peer = Peer(c, 3, "cpu", False, False)
    ours = sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract_state(x).params))
    pos_embed = 17 * 64 if method == "v3" else 0  # fixed, and no parameter of ours
    assert sum(p.numel() for p in peer.parameters) == ours + pos_embed
    views = torch.randn(2, c.data.batch_size, 3, SIZE, SIZE)
    # The counter does not know the fused kernel of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = [float(peer.step(*views)) for _ in range(2)]
    assert np.isfinite(losses).all()
    ratio = counter.get_total_flops() / 2 / absent.useful_operations(x)
    assert least < ratio < most


def test_what_the_peer_has_not_is_refused():
    c = config("v3")
    c.model.vit.pool = "avg"
    with pytest.raises(InputError, match="pool 'cls'"):
        Peer(c, 3, "cpu", False, False)
    c = config("v2")
    c.model.resnet.width = 0.5
    with pytest.raises(InputError, match=r"width=0.5: the peer's is 1"):
        Peer(c, 3, "cpu", False, False)
    c.method.name = "swav"
    with pytest.raises(InputError, match=r"method.name, for the peer"):
        Peer(c, 3, "cpu", False, False)
