"""MoCo v3, Vision Transformers on ImageNet (arXiv:2104.02057; conv stems 2106.14881).

python -m moco_jax.main --config=configs/v3_vit.py:s16 --workdir=DIR
with :s16, :b16, :l16, :h14, or with a convolutional stem :conv_s16, :conv_b16.
Published, 300 epochs, linear top-1: s16 73.2 (batch 1024, one node of 8 V100), b16 76.7, l16
77.6, h14 78.1 (batch 4096). A ViT-B takes 2.1 h for 100 epochs on 512 TPU v3.
The paper's ablations of b16 (76.5): configs/v3_vit.py:b16,pos=learned 76.1, pos=none 74.9,
pool=gap_ln 69.7, pool=gap 76.3, norm=batch, head_bn=none 74.4 (batch 2048; with it 76.5),
predictor=none 75.5, m=0 74.3, m=0.9 75.6, m=0.999 75.0, freeze_patch=False, optimizer=lamb,
batch=... and lr=... (section 4: stability).
:cifar10 (200 epochs) and :demo (1 minute on 2 CPU cores) are small ones for the same arguments.
"""

from configs import demo, v2_r18_cifar10, v3_r50
from moco_jax import config
from moco_jax.ablations import BATCH, RATE, ablated, number, one_of
from moco_jax.config import ConfigDict
from moco_jax.models.vit import NORMS, POSITIONS


def _momentum(c: ConfigDict, value: str) -> None:
    number("method.ema")(c, value)
    if c.method.ema == 0:  # a cosine from there would give a momentum to most of the run
        c.method.ema_schedule = "constant"


ABLATIONS = {
    "pos": one_of("pos", {name: {"model.vit.position": name} for name in POSITIONS}),
    "pool": one_of(
        "pool",
        {
            "cls": {"model.vit.pool": "cls"},
            "gap": {"model.vit.pool": "avg"},
            "gap_ln": {"model.vit.pool": "avg_norm"},
        },
    ),
    "norm": one_of("norm", {name: {"model.vit.norm": name} for name in NORMS}),
    "head_bn": one_of(
        "head_bn",
        {
            "on": {},
            "none": {
                f"method.{head}.{bn}": False
                for head in ("projector", "predictor")
                for bn in ("bn", "last_bn")
            },
        },
    ),
    "predictor": one_of("predictor", {"mlp": {}, "none": {"method.predictor.layers": 0}}),
    "m": _momentum,
    "freeze_patch": one_of("freeze_patch", {"True": {}, "False": {"optim.freeze": ()}}),
    # LAMB's rates in the paper are 5, 6 and 8e-4.
    "optimizer": one_of(
        "optimizer",
        {
            "adamw": {},
            "lamb": {"optim.name": "lamb", "optim.base_lr": 5e-4, "optim.exclude_1d": True},
            "lars": {
                "optim.name": "lars",
                "optim.base_lr": 0.3,  # that of v3's ResNet; the paper has no ViT with LARS
                "optim.weight_decay": 1e-6,
                "optim.exclude_1d": True,
            },
        },
    ),
    "batch": BATCH,
    "lr": RATE,
}
SIZES = {"s16": "vit_small", "b16": "vit_base", "l16": "vit_large", "h14": "vit_huge"}
STUDY = demo.STUDY | {"epochs": 8.0}  # an image takes twice as long as there
VARIANTS = (*SIZES, "conv_s16", "conv_b16", "cifar10", "demo")


def get_config(argument: str = "s16") -> ConfigDict:
    return ablated(argument, _recipe, VARIANTS, ABLATIONS)


def _recipe(variant: str) -> ConfigDict:
    if variant in ("cifar10", "demo"):
        return _small(variant)
    size = variant.removeprefix("conv_")
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


def _small(variant: str) -> ConfigDict:
    """The recipe of s16 for small images: patches, depth, heads and warmup in proportion."""
    c = _recipe("s16")
    small = v2_r18_cifar10.get_config() if variant == "cifar10" else demo.get_config()
    c.update(data=small.data, knn=small.knn, log=small.log, checkpoint=small.checkpoint)
    c.knn.features, c.model.name = "backbone", "vit_tiny"
    if variant == "cifar10":  # views as there: no blur of 32 pixels
        c.epochs, hidden, out = 200.0, 1024, 128
        c.model.vit.update(patch=4, depth=6)
        c.optim.update(base_lr=5e-4, warmup_epochs=20.0)
    else:
        v3_r50.v3_views(c)
        c.epochs, hidden, out = 8.0, 256, 64
        c.model.vit.update(patch=7, width=48, depth=3, heads=4)
        c.optim.update(base_lr=2e-3, warmup_epochs=1.0)
    for head in (c.method.projector, c.method.predictor):
        head.update(hidden=hidden, out=out)
    return c
