"""MoCo v3, Vision Transformers on ImageNet (arXiv:2104.02057; conv stems 2106.14881).

python -m moco_jax.main --config=configs/v3_vit.py:s16 --workdir=DIR
with :s16, :b16, :l16, :h14, or with a convolutional stem :conv_s16, :conv_b16.
Published, 300 epochs, linear top-1: s16 73.2 (batch 1024, one node of 8 V100), b16 76.7, l16
77.6, h14 78.1 (batch 4096). A ViT-B takes 2.1 h for 100 epochs on 512 TPU v3.
"""

from configs import v3_r50
from moco_jax import config
from moco_jax.config import ConfigDict

SIZES = {"s16": "vit_small", "b16": "vit_base", "l16": "vit_large", "h14": "vit_huge"}


def get_config(variant: str = "s16") -> ConfigDict:
    names = (*SIZES, "conv_s16", "conv_b16")
    size = config.choose("variant", variant, names).removeprefix("conv_")
    conv = variant.startswith("conv_")
    c = v3_r50.get_config()
    c.epochs = 300.0
    c.data.batch_size = 1024 if size == "s16" else 4096
    for view in (c.data.view1, c.data.view2):
        view.crop_area = (0.08, 1.0)
    c.model.name = SIZES[size]
    c.model.vit.patch = int(size[1:])
    c.model.vit.stem = "conv" if conv else "patch"
    c.method.temperature = 0.2
    c.method.projector.layers = 3
    c.method.predictor.last_bn = True
    c.optim = config.default().optim.unlock()
    c.optim.update(
        name="adamw",
        base_lr=1.5e-4,
        warmup_epochs=40.0,
        weight_decay=0.1,
        # The random patch projection is what keeps the training stable (section 4.1); a
        # convolutional stem is trained.
        freeze=() if conv else ("backbone/patch_embed",),
    )
    c.optim.lock()
    return c
