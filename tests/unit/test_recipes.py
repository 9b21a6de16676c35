"""The recipes hold the papers' values."""

import importlib

import pytest

from configs import linear
from moco_jax import config

VITS = ("s16", "b16", "l16", "h14", "conv_s16", "conv_b16")


def get(name, *args):
    return importlib.import_module(f"configs.{name}").get_config(*args)


def lr(c):
    return c.optim.base_lr * c.data.batch_size / 256


def test_queue_recipes():
    v1, v2 = get("v1_r50"), get("v2_r50")
    for c in (v1, v2):
        assert (c.data.batch_size, lr(c), c.optim.momentum, c.optim.weight_decay) == (
            256,
            0.03,
            0.9,
            1e-4,
        )
        assert (c.method.queue_size, c.method.ema, c.method.ema_schedule) == (
            65536,
            0.999,
            "constant",
        )
        assert (c.method.bn_group_size, c.method.shuffle_bn) == (32, True)
        assert (c.optim.exclude_1d, c.epochs, c.data.image_size) == (False, 200, 224)
        assert c.data.view1 == c.data.view2
        assert c.data.view1.crop_area == (0.2, 1.0)
        assert c.method.projector.out == 128
        assert not c.method.projector.bn
        assert not c.model.resnet.zero_init_residual
    assert (v1.method.temperature, v2.method.temperature) == (0.07, 0.2)
    assert (v1.method.projector.layers, v2.method.projector.layers) == (1, 2)
    assert v2.method.projector.hidden == 2048
    assert (v1.optim.schedule, v1.optim.step_epochs) == ("step", (120, 160))
    assert (v2.optim.schedule, v2.optim.warmup_epochs) == ("cosine", 0)
    assert v1.data.view1.order == ("grayscale", "jitter", "flip")
    assert (v1.data.view1.jitter, v1.data.view1.jitter_p) == ((0.4, 0.4, 0.4, 0.4), 1.0)
    assert v2.data.view1.order == ("jitter", "grayscale", "blur", "flip")
    assert (v2.data.view1.jitter, v2.data.view1.jitter_p) == ((0.4, 0.4, 0.4, 0.1), 0.8)
    assert (v2.data.view1.blur_p, v2.data.view1.grayscale_p) == (0.5, 0.2)


@pytest.mark.parametrize(
    ("epochs", "rate", "decay", "ema"),
    [("100", 0.6, 1e-6, 0.99), ("300", 0.3, 1e-6, 0.99), ("1000", 0.3, 1.5e-6, 0.996)],
)
def test_v3_resnet(epochs, rate, decay, ema):
    c = get("v3_r50", epochs)
    assert (c.epochs, c.optim.base_lr, c.optim.weight_decay, c.method.ema) == (
        int(epochs),
        rate,
        decay,
        ema,
    )
    assert (c.optim.name, c.optim.trust_coefficient, c.optim.exclude_1d) == ("lars", 0.001, True)
    assert (c.data.batch_size, c.optim.warmup_epochs, c.method.temperature) == (4096, 10, 1.0)
    assert c.method.projector == config.mlp(
        layers=2, hidden=4096, out=256, bias=False, bn=True, last_bn=True
    )
    assert c.method.predictor == config.mlp(layers=2, hidden=4096, out=256, bias=False, bn=True)
    assert (c.method.bn_group_size, c.method.ema_schedule) == (0, "cosine")
    assert c.model.resnet.zero_init_residual
    first, second = c.data.view1, c.data.view2
    assert (first.blur_p, second.blur_p, second.solarize_p) == (1.0, 0.1, 0.2)
    assert first.jitter == second.jitter == (0.4, 0.4, 0.2, 0.1)
    assert first.order == ("jitter", "grayscale", "blur", "flip")
    assert second.order == ("jitter", "grayscale", "blur", "solarize", "flip")


@pytest.mark.parametrize("variant", VITS)
def test_v3_vit(variant):
    c = get("v3_vit", variant)
    size = variant[-3:]
    names = {"s16": "vit_small", "b16": "vit_base", "l16": "vit_large", "h14": "vit_huge"}
    assert c.model.name == names[size]
    assert c.model.vit.patch == int(size[1:])
    assert c.data.batch_size == (1024 if size == "s16" else 4096)
    assert (c.optim.name, c.optim.base_lr, c.optim.weight_decay) == ("adamw", 1.5e-4, 0.1)
    assert (c.optim.b1, c.optim.b2, c.optim.eps, c.optim.exclude_1d) == (0.9, 0.999, 1e-8, False)
    assert (c.epochs, c.optim.warmup_epochs, c.method.temperature) == (300, 40, 0.2)
    assert (c.method.projector.layers, c.method.projector.last_bn) == (3, True)
    assert (c.method.predictor.layers, c.method.predictor.last_bn) == (2, True)
    assert (c.method.ema, c.method.ema_schedule) == (0.99, "cosine")
    assert c.data.view1.crop_area == c.data.view2.crop_area == (0.08, 1.0)
    conv = variant.startswith("conv")
    assert (c.model.vit.stem, c.optim.freeze) == (
        ("conv", ()) if conv else ("patch", ("backbone/patch_embed",))
    )


def test_cifar_demonstration():
    c = get("v2_r18_cifar10", "200")
    assert (c.data.batch_size, round(lr(c), 9), c.optim.weight_decay) == (512, 0.06, 5e-4)
    assert (c.method.queue_size, c.method.ema, c.method.temperature) == (4096, 0.99, 0.1)
    assert c.data.batch_size // c.method.bn_group_size == 8
    assert (c.data.view1.crop_area, c.data.view1.order) == (
        (0.08, 1.0),
        ("flip", "jitter", "grayscale"),
    )
    assert (c.knn.k, c.knn.temperature, c.knn.features) == (200, 0.1, "projection")
    assert (c.model.name, c.model.resnet.stem, c.method.projector.layers) == (
        "resnet18",
        "cifar",
        1,
    )
    assert get("v2_r18_cifar10", "400_symmetric").method.symmetric


@pytest.mark.parametrize("variant", ["v1_r50", "v2_r50"])
def test_linear_probe_of_queue_methods(variant):
    c = get("linear", variant)
    assert (lr(c), c.optim.momentum, c.optim.weight_decay, c.data.batch_size) == (30, 0.9, 0, 256)
    assert (c.epochs, c.optim.schedule, c.optim.step_epochs, c.optim.step_factor) == (
        100,
        "step",
        (60, 80),
        0.1,
    )


@pytest.mark.parametrize(("variant", "base"), [("v3_r50", 0.1), ("v3_s16", 3), ("v3_b16", 3)])
def test_linear_probe_of_v3(variant, base):
    c = get("linear", variant)
    assert (c.optim.base_lr, c.data.batch_size, c.epochs) == (base, 1024, 90)
    assert (c.optim.name, c.optim.schedule, c.optim.weight_decay) == ("sgd", "cosine", 0)
    assert (c.optim.momentum, c.optim.warmup_epochs, c.optim.freeze) == (0.9, 0, ())


@pytest.mark.parametrize("variant", linear.PRETRAINING)
def test_what_all_linear_probes_share(variant):
    c = get("linear", variant)
    assert (c.protocol, c.supervised.train_backbone, c.init_part) == (
        "supervised",
        False,
        "backbone",
    )
    assert (c.data.view1.crop_area, c.data.view1.order, c.data.view1.flip_p) == (
        (0.08, 1.0),
        ("flip",),
        0.5,
    )
    assert c.data.eval_crop_share == (0.875 if c.data.image_size == 224 else 1.0)


@pytest.mark.parametrize(
    ("variant", "epochs", "drop"),
    [("vit_s16", 300, 0.1), ("vit_b16", 150, 0.1), ("vit_l16", 100, 0.5)],
)
def test_deit_recipe(variant, epochs, drop):
    c = get("finetune", f"{variant}_imagenet")
    o, s, view = c.optim, c.supervised, c.data.view1
    assert (o.name, lr(c), o.weight_decay) == ("adamw", 5e-4 * c.data.batch_size / 512, 0.05)
    assert (o.schedule, o.warmup_epochs, o.exclude_1d) == ("cosine", 5, True)
    assert (o.exclude, o.freeze) == (("cls_token", "pos_embed"), ())
    assert (s.train_backbone, s.label_smoothing, s.mixup, s.cutmix) == (True, 0.1, 0.8, 1.0)
    assert (s.mix_p, s.cutmix_p) == (1.0, 0.5)
    assert (view.order, view.erase_p) == (("flip", "randaugment", "erase"), 0.25)
    assert (view.crop_area, view.randaugment_magnitude) == ((0.08, 1.0), 9)
    assert (c.epochs, c.model.vit.drop_path) == (epochs, drop)
    assert (c.model.vit.position, c.model.vit.pool) == ("learned", "cls")
    assert (c.init_part, c.method.bn_group_size, c.model.vit.patch) == ("backbone", 0, 16)


@pytest.mark.parametrize(
    ("name", "decay", "mixup", "cutmix", "erase", "drop"),
    [
        ("cifar10", 0.1, 0.8, 1, 0, 0.1),
        ("cifar100", 0.1, 0.5, 1, 0, 0.1),
        ("flowers102", 0.3, 0, 0, 0.25, 0.1),
        ("pets", 0.1, 0.8, 0, 0, 0),
    ],
)
def test_transfer_recipe(name, decay, mixup, cutmix, erase, drop):
    c = get("finetune", f"vit_b16_{name}")
    assert (c.data.batch_size, c.epochs, c.optim.warmup_epochs) == (128, 100, 3)
    assert lr(c) == pytest.approx(3e-4)
    assert (c.optim.weight_decay, c.supervised.mixup, c.supervised.cutmix) == (decay, mixup, cutmix)
    assert (c.data.view1.erase_p, c.model.vit.drop_path) == (erase, drop)
    assert c.data.image_size == 224


@pytest.mark.parametrize(
    ("variant", "images", "steps", "drops"),
    [
        ("voc_r50c4_24k", 16_551, 24_000, (18_000, 22_000)),
        ("coco_r50c4_1x", 117_266, 90_000, (60_000, 80_000)),
        ("coco_r50fpn_1x", 117_266, 90_000, (60_000, 80_000)),
        ("coco_r50fpn_2x", 117_266, 180_000, (120_000, 160_000)),
        ("coco_keypoint", 64_115, 90_000, (60_000, 80_000)),
    ],
)
def test_detection(variant, images, steps, drops):
    c = get("detection", variant)
    d, of_epoch = c.detection, images / c.data.batch_size
    assert (c.data.batch_size, lr(c), c.optim.momentum) == (16, pytest.approx(0.02), 0.9)
    assert round(c.epochs * of_epoch) == steps
    assert tuple(round(epoch * of_epoch) for epoch in c.optim.step_epochs) == drops
    assert round(c.optim.warmup_epochs * of_epoch) == 100
    assert (c.optim.schedule, c.optim.step_factor, c.optim.weight_decay) == ("step", 0.1, 1e-4)
    assert (c.optim.freeze, c.optim.exclude) == ((), ("bn",)), "nothing frozen; norms: no decay"
    voc, keypoints = variant.startswith("voc"), variant == "coco_keypoint"
    assert tuple(d.sides) == tuple(range(480 if voc else 640, 801, 32))
    assert (d.test_side, d.longest, d.samples, d.eleven_points) == (800, 1333, 512, voc)
    assert (d.masks, d.keypoints) == (not voc and not keypoints, keypoints)
    c4 = "c4" in variant
    assert d.network == ("c4" if c4 else "fpn")
    assert tuple(d.test_proposals) == ((6000, 1000) if c4 else (1000, 1000))
    assert tuple(d.proposals) == ((12_000, 2000) if c4 else (2000, 1000))
