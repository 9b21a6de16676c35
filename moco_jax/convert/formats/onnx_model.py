"""ONNX: an encoder as a graph that other programs run, by jax2onnx; held against ours before use.

B batch, S side of an image, C channels, F features, K classes
"""

import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moco_jax.convert.contents import Contents
from moco_jax.convert.encoder_weights import LOGITS, channels_of, encoder_weights, make_apply
from moco_jax.convert.preprocessing import said_of
from moco_jax.errors import CheckpointError
from moco_jax.extras import extra
from moco_jax.methods.networks import make_networks

MOST = 2**31 - 2**24  # bytes of weights; a file of protocol buffers has less than 2 GiB
_CONTENTS, _GRAPH = "contents", "graph"
TOLERANCE = 1e-4  # of the largest output: float32, summed in other orders


def write(contents: Contents, path: pathlib.Path) -> None:
    """Writes 'images' (B, S, S, C) -> 'features' (B, F), and 'logits' (B, K) of a classifier.

    Images are float32 in [0, 1]; mean and std are in the graph. B is free.

    Raises:
      InputError: a library is not installed.
      CheckpointError: the weights are too large for one file, or the graph does not compute what
        the encoder does.
    """
    with extra("onnx", "an .onnx file"):
        if importlib.util.find_spec("jax2onnx") is None:
            raise ModuleNotFoundError("No module named 'jax2onnx'", name="jax2onnx")
        import onnxruntime
    function, _, image_shape = _function(contents)
    data = _graph(contents)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    _check(session, function, image_shape)
    path.write_bytes(data)


def _graph(contents: Contents) -> bytes:
    """The graph, by a process of its own: jax2onnx replaces functions of JAX, and for good."""
    program = f"from {__name__} import trace; import sys; trace(sys.argv[1])"
    own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, _CONTENTS).write_bytes(pickle.dumps(contents))
        done = subprocess.run(
            [sys.executable, "-c", program, folder], env=os.environ | own,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"jax2onnx made no graph:\n{done.stderr}")
        return pathlib.Path(folder, _GRAPH).read_bytes()


def trace(folder: str) -> None:
    """What the process of `_graph` does, between two files of a folder."""
    import jax2onnx

    contents = pickle.loads(pathlib.Path(folder, _CONTENTS).read_bytes())
    function, outputs, image_shape = _function(contents)
    with nn.intercept_methods(_padded_first):
        model = jax2onnx.to_onnx(
            function, [("B", *image_shape)], model_name="encoder",
            input_names=["images"], output_names=outputs,
        )  # fmt: skip
    pathlib.Path(folder, _GRAPH).write_bytes(model.SerializeToString())


def interface(contents: Contents) -> str:
    """What the user of a written file has to know."""
    said, c = said_of(contents.config), channels_of(contents)
    size = said["image_size"]
    return (
        f"; 'images' (B, {size}, {size}, {c}) float32 in [0, 1], the central "
        f"{said['crop_pct']:.1%} of the short side; mean and std are in it"
    )


def _function(contents: Contents) -> tuple[Callable, list[str], tuple[int, int, int]]:
    """Images to outputs, the outputs' names, and the shape of an image."""
    config = contents.config.copy_and_resolve_references()
    config.model.dtype, config.model.remat = "float32", "none"
    config.model.vit.update(attention="plain", scan=False)
    config.method.bn_group_size = 0
    said, shape = said_of(config), (config.data.image_size,) * 2 + (channels_of(contents),)
    if len(said["mean"]) != shape[2]:
        raise CheckpointError(f"mean {said['mean']} for {shape[2]} channels: it says no other")
    networks = make_networks(config)._replace(predictor=None)
    classifier = contents.holds("params/classifier/")
    which = {"features": "backbone"} | ({"logits": LOGITS} if classifier else {})
    params = encoder_weights(contents, networks, LOGITS if classifier else "backbone", shape)
    if (size := sum(leaf.nbytes for leaf in jax.tree.leaves(params))) > MOST:
        raise CheckpointError(f"{size / 1e9:.1f} GB of weights; an ONNX file has less than 2.1 GB")
    applied = [make_apply(networks, f, said["mean"], said["std"]) for f in which.values()]
    return lambda images: tuple(f(params, images) for f in applied), list(which), shape


def _padded_first(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """A ResNet's pooling in two steps, as jax2onnx 0.12 to 0.17 leaves out the padding of pools.

    What is pooled is not negative, so that zeros change no maximum.
    """
    if context.method_name != "pool":
        return call(*args, **kwargs)
    x = jnp.pad(args[0], ((0, 0), (1, 1), (1, 1), (0, 0)))
    return nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="VALID")


def _check(session: Any, function: Callable, image_shape: tuple[int, int, int]) -> None:
    """Refuses a graph that gives other values than the encoder, for one image or for three."""
    rng = np.random.default_rng(0)
    for count in (1, 3):
        images = rng.random((count, *image_shape), np.float32)
        found = session.run(None, {"images": images})
        for ours, theirs in zip(jax.jit(function)(images), found, strict=True):
            same = ours.shape == theirs.shape and np.allclose(
                ours, theirs, atol=TOLERANCE * np.abs(ours).max(), rtol=0
            )
            if not same:
                raise CheckpointError(
                    "the ONNX graph that jax2onnx made gives other values than the encoder; export "
                    "to torchvision's or timm's format, and from there by torch.onnx"
                )
