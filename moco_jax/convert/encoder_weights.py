"""The weights of an encoder, out of what a checkpoint holds.

B batch, S side of an image, C channels, F features, K classes
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moco_jax.checkpoint import compare, named
from moco_jax.convert.contents import Contents
from moco_jax.convert.formats.ours import spread
from moco_jax.errors import CheckpointError
from moco_jax.methods.networks import Networks

Tree = Any
LOGITS = "logits"  # what an encoder gives with the classifier on top


def channels_of(contents: Contents) -> int:
    """C, from the kernel of the first convolution of a ResNet, a ViT or a convolutional stem."""
    names = (f"params/backbone/{n}/kernel" for n in ("conv1", "patch_embed", "patch_embed/conv1"))
    return next((contents.leaves[n].shape[2] for n in names if n in contents.leaves), 3)


def encoder_weights(
    contents: Contents, networks: Networks, features: str, image_shape: tuple[int, ...]
) -> Tree:
    """Parameters and statistics, each a dict by network, on the default device.

    Args:
      contents: of one encoder.
      networks: of its config.
      features: 'backbone', 'projection' or LOGITS.
      image_shape: (S, S, C) of the images.

    Raises:
      CheckpointError: it lacks what is asked for, or does not fit its config.
    """
    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    params, stats = jax.eval_shape(networks.init, jax.random.key(0), image)
    used = ("backbone", *{"projection": ["projector"], LOGITS: ["classifier"]}.get(features, ()))
    if features == "projection" and not contents.holds("params/projector/"):
        raise CheckpointError("there is no projection head in it: features='backbone'")
    if features == LOGITS:
        params, stats = params | {"classifier": _classifier(contents)}, stats | {"classifier": {}}
    wanted = {
        "params": {name: params[name] for name in used},
        "stats": {name: stats[name] for name in used},
    }
    leaves = {}
    for name, leaf in contents.leaves.items():
        kind, _, rest = name.removeprefix("method_state/").partition("/")
        if kind in wanted and rest.split("/")[0] in used and not rest.endswith("/count"):
            leaves[f"{kind}/{rest}"] = spread(leaf, 1) if kind == "stats" else leaf
    if lines := compare(leaves, named(wanted)):
        raise CheckpointError("the checkpoint does not fit its config:\n" + "\n".join(lines[:20]))
    return jax.tree.unflatten(
        jax.tree.structure(wanted), [jnp.asarray(leaves[name]) for name in named(wanted)]
    )


def _classifier(contents: Contents) -> Tree:
    """Shapes of kernel (F, K) and bias (K,) of the classifier in a checkpoint."""
    names = ("kernel", "bias")
    found = {name: contents.leaves.get(f"params/classifier/{name}") for name in names}
    if any(leaf is None for leaf in found.values()):
        raise CheckpointError(
            "there is no classifier in it; a linear probe or fine-tuning trains one "
            "(configs/linear.py, configs/finetune.py)"
        )
    return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in found.items()}


def make_apply(
    networks: Networks, features: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Tree, jax.Array], jax.Array]:
    """The pure function of an encoder: (params, images (B, S, S, C) in [0, 1]) -> (B, F) float32.

    Args:
      networks: of its config.
      features: 'backbone', 'projection' or LOGITS.
      mean: per channel, of pixels in [0, 1].
      std: per channel.
    """
    center, scale = (np.array(x, np.float32).reshape(1, 1, 1, -1) for x in (mean, std))

    def apply(params: Tree, images: jax.Array) -> jax.Array:
        run = functools.partial(networks.apply, params=params["params"], stats=params["stats"])
        y, _ = run("backbone", x=(images - center) / scale, train=False)
        if features == "projection":
            y, _ = run("projector", x=y, train=False)
        if features == LOGITS:
            classifier = params["params"]["classifier"]
            y = jnp.dot(y, classifier["kernel"], precision="highest") + classifier["bias"][None]
        return y.astype(jnp.float32)

    return apply
