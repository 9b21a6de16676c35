"""RandAugment's operations at given levels against timm's on PIL images, level for level.

PIL computes in float64 or fixed point and cuts fractions off, so where a result is almost whole,
1 of 255 is allowed. A rotation is interpolated in another way than PIL's: see its test.
"""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.data import auto_augment

from moco_jax.data import randaugment as ours

pytestmark = pytest.mark.parity

H, W = 40, 56
FILL = (124, 116, 104)
TIMMS = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "rotate": "Rotate",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


def waves(x, y):
    parts = np.sin(0.2 * x + 0.15 * y), np.cos(0.31 * x - 0.1 * y), np.sin(0.25 * x + 0.3 * y)
    return 128 + 100 * np.stack(parts, -1)


def make_images():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    noise = rng.integers(0, 256, (H, W, 3))
    return {
        "noise": noise,
        "smooth": waves(x, y),
        "dark": noise // 5 + 3,
        "two levels": np.where(noise > 200, 180, 60),
        "one outlier": np.where(np.arange(H * W * 3).reshape(H, W, 3) == 77, 200, 90),
        "constant": np.broadcast_to([255, 0, 128], (H, W, 3)),
    }


IMAGES = {name: image.astype(np.uint8) for name, image in make_images().items()}
run = jax.jit(ours.randaugment)


def draw(name, level, sign=1.0):
    index = [ours.OPERATIONS.index(name)] if name else [len(ours.OPERATIONS)]
    return ours.Draw(jnp.array(index), jnp.array([level / 10]), jnp.array([sign]))


def apply(image, name, level, sign=1.0):
    fill = jnp.array(FILL[: image.shape[-1]], jnp.float32)
    out = np.asarray(run(jnp.float32(image), draw(name, level, sign), fill))
    np.testing.assert_array_equal(out, np.round(out))
    assert 0 <= out.min() <= out.max() <= 255
    return out


def timms(image, name, level, sign=1.0):
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    gray = image.shape[-1] == 1
    if gray:
        hparams["img_mean"] = FILL[0]
    operation = auto_augment.AugmentOp(TIMMS[name], prob=1.0, magnitude=level, hparams=hparams)
    with mock.patch.object(auto_augment, "_randomly_negate", lambda v: sign * v):
        out = np.asarray(operation(Image.fromarray(image[..., 0] if gray else image)))
    return out.astype(np.float32)[..., None] if gray else out.astype(np.float32)


def levels(name):
    # Pillow refuses to keep no bit, which at level 10 older ones did: black.
    return (0.0, 4.3, 9.0) if name == "posterize" else (0.0, 4.3, 9.0, 10.0)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
@pytest.mark.parametrize("name", [name for name in TIMMS if name != "rotate"])
def test_operations(image, name):
    for level in levels(name):
        for sign in (1.0, -1.0):
            difference = np.abs(apply(image, name, level, sign) - timms(image, name, level, sign))
            assert difference.max() <= 1
            assert np.mean(difference > 0) < 0.05


@pytest.mark.parametrize("name", [name for name in TIMMS if name not in ("rotate", "color")])
def test_operations_on_one_channel(name):
    image = IMAGES["noise"][..., :1]
    for level in levels(name):
        difference = np.abs(apply(image, name, level) - timms(image, name, level))
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 0.05


def test_posterize_to_no_bit_is_black():
    assert not apply(IMAGES["noise"], "posterize", 10.0).any()


def rotated(degrees):
    """The waves, rotated without interpolation."""
    angle = np.radians(degrees)
    y, x = np.mgrid[:H, :W] - np.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    return waves(x + (W - 1) / 2, y + (H - 1) / 2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, 0.7, 4.3, 9.0, 10.0])
def test_rotation(level, sign):
    """The same pixels from outside; on average within 2 levels of PIL's, and twice its error."""
    image = np.round(rotated(0.0)).astype(np.uint8)
    got, want = (f(image, "rotate", level, sign) for f in (apply, timms))
    outside = np.all(got == np.float32(FILL), axis=-1)
    np.testing.assert_array_equal(outside, np.all(want == np.float32(FILL), axis=-1))
    assert outside.any() == (level > 0)
    error, other = (np.abs(x - rotated(sign * 3 * level))[~outside].mean() for x in (got, want))
    assert error <= 2 * other
    assert np.abs(got - want)[~outside].mean() < 2


def test_layers_follow_one_another():
    image, names = IMAGES["smooth"], ("posterize", "shear_x", "equalize")
    draws = [draw(name, 6.0, -1.0) for name in names]
    stacked = jax.tree.map(lambda *parts: jnp.concatenate(parts), *draws)
    got = run(jnp.float32(image), stacked, jnp.array(FILL, jnp.float32))
    expected = image
    for name in names:
        expected = apply(expected, name, 6.0, -1.0)
    np.testing.assert_array_equal(got, expected)
    assert np.mean(np.abs(expected - image)) > 10
