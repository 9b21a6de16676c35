"""PyTorch models with random weights, and their weights in the shapes and names of moco_jax."""

import re

import jax
import numpy as np
import torch

RENAMES = (
    (r"^(layer\d|blocks)\.(\d+)\.", r"\1_\2."),
    (r"downsample\.0", "downsample_conv"),
    (r"downsample\.1", "downsample_bn"),
    (r"^patch_embed\.proj\.(weight|bias)", r"patch_embed.\1"),
)
STATISTICS = {"running_mean": "mean", "running_var": "var"}


def randomize(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Moves every parameter and BatchNorm statistic off its initial value."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in model.parameters():
            spread = 0.1 if p.ndim == 1 else 0.2 * float(p.std())
            p += torch.from_numpy(rng.normal(0, spread, p.shape)).float()
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b += torch.from_numpy(rng.normal(0, 0.3, b.shape)).float()
            if name.endswith("running_var"):
                b *= torch.from_numpy(rng.uniform(0.5, 2.0, b.shape)).float()
    return model


def convert(tensors: dict[str, torch.Tensor], renames=RENAMES) -> dict:
    """A state dict, or the gradients under the same names, as flax variables."""
    variables = {"params": {}, "batch_stats": {}}
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        *path, leaf = name.split(".")
        value = tensor.detach().numpy()
        collection = variables["batch_stats" if leaf in STATISTICS else "params"]
        if leaf in STATISTICS:
            leaf, value = STATISTICS[leaf], value[None]
        elif leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            axes = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[value.ndim]
            value = value.transpose(axes)
        for part in path:
            collection = collection.setdefault(part, {})
        collection[leaf] = value.copy()
    return variables


def gradients(model: torch.nn.Module, renames=RENAMES) -> dict:
    """The gradients of a model's trainable parameters as flax parameters."""
    named = model.named_parameters()
    return convert({name: p.grad for name, p in named if p.requires_grad}, renames)["params"]


def nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def relative_error(got, want, floor: float = 0.0) -> float:
    """The largest difference, over the largest value wanted (or `floor`, if that is larger)."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / max(np.abs(want).max(), floor))


def largest_error(got, want) -> float:
    """The largest relative error of a leaf, of two trees of the same structure.

    A leaf's scale is at least 1e-2 of the largest leaf's: biases before a BatchNorm have a
    gradient of zero, of which only roundings are left.
    """
    floor = 1e-2 * max((float(np.abs(x).max()) for x in jax.tree.leaves(want)), default=0.0)
    errors = jax.tree.map(lambda a, b: relative_error(a, b, floor), got, want)
    return max(jax.tree.leaves(errors), default=0.0)
