"""Runs small enough to test the whole program: few images, few pixels, few channels."""

import numpy as np

from configs import finetune, v1_r50, v2_r50, v3_vit

IMAGES, SIZE, BATCH = 80, 12, 16
CONFIG_FILE = """
from tests.tiny import tiny_config
def get_config(method):
    c = tiny_config(method, {source!r})
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
    """v1 or v2 with a queue that its batch does not divide and shuffled BatchNorm groups, or v3.

    All have a Vision Transformer, that of v1 and v2 with BatchNorm: it compiles faster than a
    ResNet.
    """
    recipes = {"v1": v1_r50.get_config, "v2": v2_r50.get_config, "v3": v3_vit.get_config}
    c = recipes[method]()
    c.model.name = "vit_tiny"
    c.model.vit.update(patch=4, width=16, depth=2, heads=2)
    if method != "v3":
        c.model.vit.norm = "batch"
        c.method.update(queue_size=40, bn_group_size=2)
        c.method.projector.update(hidden=16, out=8)
    else:
        for head in (c.method.projector, c.method.predictor):
            head.update(hidden=16, out=8)
        c.optim.update(base_lr=0.01, warmup_epochs=0.2)
    c.epochs = 4.0  # 20 steps
    c.data.update(source=source, batch_size=BATCH, image_size=SIZE, eval_crop_share=1.0)
    c.data.update(eval_batch_size=16, threads=2)
    c.knn.update(every_epochs=2.0, k=5)
    c.log.update(every_steps=5, tensorboard=False)
    c.checkpoint.update(every_steps=6)
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
