"""The recipes of the methods that MoCo is compared with hold their papers' values."""

import importlib

import pytest

VITS = {"s16": ("vit_small", 1024), "b16": ("vit_base", 4096)}


def get(name, variant="r50"):
    return importlib.import_module(f"configs.{name}").get_config(variant)


def optimizer(c):
    """Name, rate, decay, epochs of warmup."""
    o = c.optim
    rate = round(o.base_lr * c.data.batch_size / 256, 9)
    return o.name, rate, o.weight_decay, o.warmup_epochs


def test_simclr():
    c = get("simclr")
    assert (c.data.batch_size, c.method.temperature) == (4096, 0.1)
    assert optimizer(c) == ("lars", 4.8, 1e-6, 10)
    assert c.optim.exclude_1d
    assert c.data.view1 == c.data.view2
    assert (c.data.view1.crop_area, c.data.view1.jitter) == ((0.08, 1.0), (0.8, 0.8, 0.8, 0.2))
    b16 = get("simclr", "b16")
    assert optimizer(b16) == ("adamw", 3.2e-3, 0.1, 40)
    assert (b16.method.temperature, b16.data.view1.jitter) == (0.1, (0.4, 0.4, 0.4, 0.1))


def test_byol():
    c = get("byol")
    assert (c.epochs, c.data.batch_size, c.method.ema) == (1000, 4096, 0.996)
    assert optimizer(c) == ("lars", 3.2, 1.5e-6, 10)
    assert (c.method.ema_schedule, c.optim.exclude_1d) == ("cosine", True)
    for head in (c.method.projector, c.method.predictor):
        assert (head.layers, head.hidden, head.out) == (2, 4096, 256)
        assert (head.bn, head.last_bn) == (True, False)
    first, second = c.data.view1, c.data.view2
    assert (first.blur_p, second.blur_p, "solarize" in second.order) == (1.0, 0.1, True)


def test_swav():
    c, small_batch = get("swav"), get("swav", "r50_256")
    assert optimizer(c) == ("lars", 4.8, 1e-6, 10)
    assert optimizer(small_batch) == ("lars", 0.6, 1e-6, 0)
    assert (c.method.queue_size, small_batch.method.queue_size) == (0, 3840)
    s = c.method.swav
    assert (s.prototypes, s.epsilon, c.method.temperature) == (3000, 0.05, 0.1)
    assert (s.frozen_epochs, s.queue_from_epoch, s.small_views) == (1, 15, 6)
    assert (c.method.projector.hidden, c.method.projector.out) == (2048, 128)
    assert (c.data.view1.crop_area, c.data.view2.crop_area) == ((0.14, 1.0), (0.14, 1.0))
    assert (c.data.small_view.size, c.data.small_view.crop_area) == (96, (0.05, 0.14))
    assert not c.optim.exclude_1d


def test_those_of_v1s_figure_2():
    v1 = importlib.import_module("configs.v1_r50").get_config()
    for name, changed in (("memory_bank", {}), ("end_to_end", {"batch_size": 1024})):
        c = get(name)
        assert (c.optim, c.method.projector) == (v1.optim, v1.method.projector)
        assert c.data.batch_size == changed.get("batch_size", 256)
        assert (c.method.temperature, c.method.bn_group_size) == (0.07, 32)
        assert c.data.view1 == v1.data.view1
    assert (get("memory_bank").method.queue_size, get("memory_bank").method.bank_loss) == (
        65536,
        "info_nce",
    )
    original = get("memory_bank", "r50_nce").method
    assert (original.queue_size, original.bank_loss) == (4096, "nce")


@pytest.mark.parametrize("size", VITS)
@pytest.mark.parametrize("name", ["simclr", "byol", "swav", "memory_bank", "end_to_end"])
def test_vits_are_those_of_v3(name, size):
    c = get(name, size)
    assert (c.model.name, c.data.batch_size) == VITS[size]
    assert (c.epochs, c.optim.name, c.optim.weight_decay) == (300, "adamw", 0.1)
    assert (c.optim.warmup_epochs, c.optim.freeze) == (40, ("backbone/patch_embed",))
    assert c.method.predictor.layers == (2 if name == "byol" else 0)
    assert c.method.name == name
