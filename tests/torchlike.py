"""PyTorch's two file formats made by hand, and small checkpoints, for tests without PyTorch."""

import io
import pathlib
import zipfile
from collections import OrderedDict

import jax
import numpy as np

from moco_jax import config
from moco_jax.checkpoint import named
from moco_jax.convert import topickle, torchfile
from moco_jax.convert.contents import Contents
from moco_jax.convert.formats.ours import optimizer_leaf
from moco_jax.convert.torchfile import LEGACY_NUMBER, LEGACY_PROTOCOL
from moco_jax.methods import Facts, make_method
from moco_jax.optim import make_optimizer

ROOT = pathlib.Path(__file__).parent.parent


def pickled(value, protocol=2) -> bytes:
    """A pickle of plain data and of the names in `topickle`."""
    out = io.BytesIO()
    topickle.dump(value, out.write, protocol)
    return out.getvalue()


def tensor(key, shape, kind="FloatStorage", size=None, offset=0, strides=None, views=()):
    """What a tensor is in a pickle; `views` is the legacy format's sixth entry."""
    size = int(np.prod(shape)) if size is None else size
    if strides is None:
        strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    identity = ("storage", topickle.Named("torch", kind), key, "cpu", size, *views)
    arguments = (topickle.Persistent(identity), offset, shape, strides, False, OrderedDict())
    return topickle.Call(topickle.Named("torch._utils", "_rebuild_tensor_v2"), arguments)


def zip_file(path, pickle: bytes, storages, compression=zipfile.ZIP_STORED):
    """A zip archive as torch.save lays it out, around any pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def legacy_file(path, pickle: bytes, storages):
    """A file as torch.save wrote it before 1.6, around any pickle; storages are float32."""
    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True}
    parts = [pickled(LEGACY_NUMBER), pickled(LEGACY_PROTOCOL), pickled(system), pickle]
    parts.append(pickled(list(storages)))
    for content in storages.values():
        parts += [(len(content) // 4).to_bytes(8, "little"), content]
    path.write_bytes(b"".join(parts))
    return path


def save_legacy(path, tree):
    """A tree of dicts with float32 and int64 arrays in the legacy format, as int64 lies in it."""
    storages = {}

    def replace(value):
        if isinstance(value, dict):
            return type(value)((name, replace(item)) for name, item in value.items())
        if isinstance(value, np.ndarray):
            key, kind = str(len(storages)), topickle.TORCH_STORAGES[value.dtype]
            storages[key] = np.ascontiguousarray(value)
            return tensor(key, value.shape, kind, views=(None,))
        return value

    system = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True}
    parts = [LEGACY_NUMBER, LEGACY_PROTOCOL, system, replace(tree), list(storages)]
    with open(path, "wb") as file:
        for part in parts:
            topickle.dump(part, file.write, 2)
        for array in storages.values():
            file.write(array.size.to_bytes(8, "little") + array.tobytes())
    return path


def small_config(method="moco", vit=False, **sizes):
    """A config of a network of a few thousand weights; `sizes` go to `model.vit`."""
    c = config.default()
    c.data.update(batch_size=8, image_size=32)
    if vit:
        c.model.name = "vit_small" if sizes.get("width") == 384 else "vit_tiny"
        c.model.vit.update({"width": 16, "depth": 2, "heads": 2} | sizes)
    else:
        c.model.name, c.model.resnet.width = "resnet18", 1 / 32
    c.method.update(name=method, queue_size=12, bn_group_size=4)
    c.method.projector.update(out=8, hidden=0)
    if method == "moco_v3":
        c.method.bn_group_size = 0
        heads = {"layers": 2, "hidden": 16, "out": 8, "bias": False, "bn": True, "last_bn": vit}
        c.method.predictor.update(heads)
        c.method.projector.update(heads, layers=3 if vit else 2, last_bn=True)
        c.optim.update(
            name="adamw",
            freeze=("backbone/patch_embed",) if vit and sizes.get("stem") != "conv" else (),
        )
    return c


def small_contents(method="moco", vit=False, step=5, **sizes) -> Contents:
    """A whole training state with random numbers in every leaf."""
    c = small_config(method, vit, **sizes)
    m = make_method(c, Facts(1000, 0, (32, 32, 3), 10, 5.0))
    params, state = jax.eval_shape(m.init, jax.random.key(0))
    tx = make_optimizer(c.optim, params, lambda step: 0.1)
    tree = {"params": params, "method_state": state, "opt_state": jax.eval_shape(tx.init, params)}
    shapes, rng = named(tree), np.random.default_rng(0)
    leaves = {}
    for name, leaf in shapes.items():
        if leaf.dtype == np.float32:
            value = rng.normal(size=leaf.shape).astype(np.float32)
            leaves[optimizer_leaf(name, shapes)] = np.abs(value) if "/var" in name else value
    if any(name.startswith("optimizer/mu/") for name in leaves):
        leaves["optimizer/count"] = np.asarray(step, np.int32)
    if method == "moco":
        leaves["method_state/queue_ptr"] = np.asarray(3, np.int32)
    return Contents("ours", c, leaves, method=method, epoch=2.0, step=step)


def save_torch(path, tree):
    with open(path, "wb") as file:
        topickle.save_zip(tree, file)
    return path


def load_torch(path):
    tree = torchfile.read_zip(path)
    return tree, {name: t.numpy() for name, t in tree.get("state_dict", tree).items()}
