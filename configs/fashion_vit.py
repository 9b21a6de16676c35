"""MoCo v3, a small Vision Transformer on all 60,000 images of Fashion-MNIST, for one GPU.

python -m moco_jax.data.fashion IDX_FOLDER --npz fashion.npz
python -m moco_jax.main --config=configs/fashion_vit.py --workdir=DIR
Hours and result: not measured yet (benchmarks/RESULTS.md).
"""

from configs import demo, v3_vit
from moco_jax.config import ConfigDict


def get_config() -> ConfigDict:
    c = v3_vit.get_config("s16")
    c.epochs = 100.0
    small = demo.get_config()
    for view, other in ((c.data.view1, small.data.view1), (c.data.view2, small.data.view2)):
        view.crop_area = other.crop_area
    c.data.update(source="npz:fashion.npz", batch_size=1024, image_size=28, eval_crop_share=1.0)
    c.model.name = "vit_tiny"
    c.model.vit.update(patch=4, depth=6)
    for head in (c.method.projector, c.method.predictor):
        head.update(hidden=1024, out=128)
    c.optim.update(base_lr=5e-4, warmup_epochs=10.0)
    c.knn.update(every_epochs=10.0, k=20)
    return c
