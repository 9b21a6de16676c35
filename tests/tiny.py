"""Runs small enough to test the whole program: few images, few pixels, few channels."""

import numpy as np

from configs import (
    byol,
    end_to_end,
    finetune,
    memory_bank,
    simclr,
    swav,
    v1_r50,
    v2_r50,
    v3_vit,
)

IMAGES, SIZE, BATCH = 80, 12, 16
RECIPES = {
    "v1": v1_r50.get_config,
    "v2": v2_r50.get_config,
    "v3": v3_vit.get_config,
    "end_to_end": end_to_end.get_config,
    "memory_bank": memory_bank.get_config,
    "nce": lambda: memory_bank.get_config("r50_nce"),
    "simclr": lambda: simclr.get_config("s16"),
    "byol": lambda: byol.get_config("s16"),
    "swav": lambda: swav.get_config("s16"),
}
CONFIG_FILE = """
from moco_jax import config
from tests.tiny import tiny_config
def get_config(method):
    c = tiny_config(method, {source!r})
    c.evals.names = config.EVALS
    c.checkpoint.every_steps = 3
    c.log.every_steps = 1
    return c
"""


def write_npz(path, images=IMAGES, size=SIZE, channels=1, labels=True, test_images=0):
    """Three classes of noisy blobs at different places; returns the source's name."""
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("", images), ("test_", test_images)):
        kinds = rng.integers(0, 3, count)
        pixels = rng.integers(0, 60, (count, size, size, channels))
        for i, kind in enumerate(kinds):
            pixels[i, kind * 4 : kind * 4 + 4, 2:10] += 150
        if count:
            arrays[f"{prefix}images"] = pixels.astype(np.uint8)
        if count and labels:
            arrays[f"{prefix}labels"] = kinds.astype(np.int32)
    np.savez(path, **arrays)
    return f"npz:{path}"


def tiny_config(method: str, source: str):
    """A recipe of `RECIPES` with a Vision Transformer, which compiles faster than a ResNet.

    Those of v1's kind have BatchNorm in it, in groups, and a queue that the batch does not divide.
    """
    c = RECIPES[method]()
    c.model.name = "vit_tiny"
    c.model.vit.update(patch=4, width=16, depth=2, heads=2)
    for head in (c.method.projector, c.method.predictor):
        head.update(hidden=16, out=8)
    if c.optim.name == "sgd":
        c.model.vit.norm = "batch"
        c.method.update(queue_size=40, bn_group_size=2)
    else:
        c.optim.update(base_lr=0.01, warmup_epochs=0.2)
    if c.method.name == "byol":
        # Gradients are large where images differ little: with larger steps, roundings of 1e-6 in
        # the third step become 1e-2 in the sixth.
        c.optim.base_lr = 0.001
    if c.method.name == "swav":
        c.data.small_view.size, c.method.queue_size = 8, 40
        c.method.swav.update(prototypes=12, small_views=2, queue_from_epoch=2.0)
    c.epochs = 4.0  # 20 steps
    c.data.update(source=source, batch_size=BATCH, image_size=SIZE, eval_crop_share=1.0)
    c.data.update(eval_batch_size=16, threads=2)
    c.knn.update(every_epochs=2.0, k=5)
    c.log.update(every_steps=5, tensorboard=False)
    c.checkpoint.update(every_steps=6)
    # It compiles a program of its own in every run; those of `write_config_file` have it.
    c.evals.names = tuple(name for name in c.evals.names if name != "alignment_uniformity")
    return c


def probe_config(source: str):
    """A linear probe of v1's network in `tiny_config`, 20 steps."""
    c = tiny_config("v1", source)
    c.protocol, c.method.bn_group_size = "supervised", 0
    c.init_part = "backbone"
    for view in (c.data.view1, c.data.view2):
        view.order = ("flip",)
    c.knn.every_epochs = 0.0
    c.optim.update(base_lr=3.0, schedule="cosine", weight_decay=0.0)
    c.supervised.every_epochs = 2.0
    return c


def finetune_config(source: str):
    """DeiT's recipe for v3's network in `tiny_config`."""
    c = finetune.get_config("vit_s16_imagenet")
    small = tiny_config("v3", source)
    c.model.name = small.model.name
    c.model.vit.update(patch=4, width=16, depth=2, heads=2)
    c.data.update(source=source, batch_size=BATCH, image_size=SIZE, eval_crop_share=1.0)
    c.data.update(eval_batch_size=16, threads=2)
    c.epochs, c.optim.warmup_epochs, c.supervised.every_epochs = 1.0, 0.1, 1.0
    c.log.update(every_steps=1, tensorboard=False)
    return c


def write_config_file(folder):
    """Images and a config.py of their tiny runs, as programs take it; returns the source's name."""
    source = write_npz(folder / "images.npz")
    (folder / "config.py").write_text(CONFIG_FILE.format(source=source))
    return source
