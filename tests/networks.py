"""Small networks, and what tests ask of them."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax import config, models


def make(name, dtype="float32", size=32, groups=1, **record):
    model = config.default().model
    model.name = name
    (model.vit if name.startswith("vit") else model.resnet).update(record)
    return models.make_backbone(model, size, groups, jnp.dtype(dtype))


def make_small(family, **record):
    if family == "vit":
        return make("vit_tiny", **{"width": 64, "depth": 2, "heads": 4, "patch": 16} | record)
    return make("resnet18", **{"width": 1 / 8, "stem": "cifar"} | record)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def shapes(net, *shape, train=False):
    init = lambda key, x: net.init_with_output(key, x, train=train)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))


def init(net, x):
    key = jax.random.key(0, impl="rbg")  # compiles faster than the default
    return jax.jit(lambda key, x: net.init(key, x, train=False))(key, x)


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def at(tree, path):
    for part in path.split("/"):
        tree = tree[part]
    return tree
