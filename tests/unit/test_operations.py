"""Operations of products, by shapes alone."""

import jax
import jax.numpy as jnp
import pytest

from moco_jax.cost import absent
from moco_jax.ops import operations as module
from moco_jax.ops.operations import operations
from tests import networks
from tests.tiny import SIZE, tiny_config


def of_ones(f, *shapes):
    """A product of ones adds 1 for each multiplication: its sum is their number."""
    return 2 * int(f(*map(jnp.ones, shapes)).sum())


def convolution(**options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: jax.lax.conv_general_dilated(x, w, dimension_numbers=numbers, **options)


CONVOLUTIONS = {
    "plain": ({}, 1),
    "strided": ({"window_strides": (2, 3)}, 1),
    "padded": ({"padding": ((3, 1), (0, 2))}, 1),
    "cut": ({"padding": ((-1, 0), (0, -2))}, 1),
    "dilated image": ({"lhs_dilation": (2, 3), "padding": ((1, 2), (2, 0))}, 1),
    "dilated kernel": ({"rhs_dilation": (2, 1)}, 1),
    "groups of features": ({"feature_group_count": 2}, 2),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    options, groups = CONVOLUTIONS[name]
    f = convolution(**{"window_strides": (1, 1), "padding": "VALID"} | options)
    shapes = (2, 7, 8, 4), (3, 2, 4 // groups, 6)
    assert operations(f, *map(jnp.ones, shapes)) == of_ones(f, *shapes)


@pytest.mark.parametrize("formula", ["ij,jk->ik", "bij,bkj->bik", "bnad,bmad->banm"])
def test_matrix_products(formula):
    sizes = dict(zip("ijkbnadm", (2, 3, 4, 5, 3, 2, 6, 7)))
    shapes = [[sizes[letter] for letter in part] for part in formula.split("->")[0].split(",")]

    def f(x, y):
        return jnp.einsum(formula, x, y)

    assert operations(f, *map(jnp.ones, shapes)) == of_ones(f, *shapes)


def test_loops_count_every_turn_and_branches_the_longest():
    x, turns = jnp.ones((3, 3)), jnp.ones((7, 3, 3))
    assert operations(lambda: jax.lax.scan(lambda c, w: (c @ w, None), x, turns)) == 7 * 2 * 27
    branches = (lambda: x, lambda: x @ x, lambda: x @ x @ x)
    assert operations(lambda i: jax.lax.switch(i, branches), 1) == 2 * 2 * 27
    assert operations(jax.jit(jax.checkpoint(lambda: x @ x))) == 2 * 27
    with pytest.raises(ValueError, match="nobody knows how often"):
        operations(lambda: jax.lax.while_loop(lambda c: c.sum() < 9.0, lambda c: c @ c, x))
    assert operations(lambda: jax.lax.while_loop(lambda c: c.sum() < 9.0, lambda c: 2 * c, x)) == 0


def test_gradients_against_the_compiler():
    """All three products of a layer, and those of a strided convolution; sums are 1% at most."""
    conv = convolution(window_strides=(2, 2), padding=((1, 1), (1, 1)))

    def loss(w, x):
        y = conv(conv(x, w[0]), w[1])
        return jnp.sum(jnp.square(y.reshape(len(y), -1) @ w[2]))

    w = (jnp.ones((3, 3, 64, 96)), jnp.ones((3, 3, 96, 128)), jnp.ones((3 * 3 * 128, 64)))
    args = (w, jnp.ones((4, 12, 12, 64)))
    counted = operations(jax.grad(loss, argnums=(0, 1)), *args)
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*args).compile()
    assert 0.98 < counted / compiled.cost_analysis()["flops"] <= 1


# Multiply-adds of an image of 224 pixels as torchvision's documentation of its weights has them,
# less its classifier of 1000 classes.
@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [("resnet50", 4.09e9, 2048e3), ("vit_base", 17.56e9, 768e3)],
)
def test_published_figures(name, published, classifier, monkeypatch):
    net = networks.make(name, size=224)
    _, variables = networks.shapes(net, 1, 224, 224, 3)
    f = lambda v, x: net.apply(v, x, train=False)  # noqa: E731
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    exact = operations(f, variables, image) / 2
    monkeypatch.setattr(module, "_pairs", lambda image, kernel, out, *rest: out * kernel)
    padded = operations(f, variables, image) / 2
    assert padded + classifier == pytest.approx(published, rel=0.003)
    assert 0.93 * padded < exact <= padded


def test_a_step_of_moco_v3_by_its_formula():
    """Three times its forward products for the online network, once for the other; both views."""
    c = tiny_config("v3", "npz:none.npz")
    x = absent.build(c, jax.devices(), absent.Size(80, 3, (SIZE, SIZE, 1)))
    b, n, width, hidden, out = c.data.batch_size, (SIZE // 4) ** 2, 16, 16, 8
    patch, n = 2 * n * 4 * 4 * width, n + 1
    blocks = 2 * (2 * n * 12 * width**2 + 2 * 2 * n**2 * width)
    projector = 2 * (width * hidden + hidden * hidden + hidden * out)
    predictor = 2 * (out * hidden + hidden * out)
    online = patch + 3 * (blocks + projector + predictor)  # the projection of patches is frozen
    target = patch + blocks + projector
    loss = 2 * 2 * b * out  # of all keys, and the gradient of a query
    assert absent.useful_operations(x) == 2 * b * (online + target + loss)
