"""Recipes made for a GPU, two steps of each with a small batch."""

import pytest

from configs import fashion_r18, fashion_vit, v2_r18_cifar10
from moco_jax import metrics
from moco_jax.training import loop
from tests.tiny import write_npz

pytestmark = pytest.mark.slow

CONFIGS = {
    "fashion_r18": (fashion_r18.get_config, 28, 1),
    "fashion_vit": (fashion_vit.get_config, 28, 1),
    "cifar10": (v2_r18_cifar10.get_config, 32, 3),
    "cifar10_symmetric": (lambda: v2_r18_cifar10.get_config("200_symmetric"), 32, 3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps(name, tmp_path):
    get_config, size, channels = CONFIGS[name]
    c = get_config()
    c.data.source = write_npz(tmp_path / "x.npz", 64, size, channels, test_images=16)
    c.data.batch_size, c.data.eval_batch_size = 32, 16
    c.method.bn_group_size = min(c.method.bn_group_size, 16)
    c.epochs, c.optim.warmup_epochs = 1.0, 0.0
    c.knn.k = 5
    assert loop.run(c, tmp_path / "run") == 0
    row = metrics.read(tmp_path / "run")[-1]
    assert row["step"] == 2
    assert row["skipped"] == 0
    assert 0 <= row["knn_top1"] <= 1
