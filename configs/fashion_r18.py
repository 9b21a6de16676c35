"""MoCo v2, ResNet-18 with a CIFAR stem on all 60,000 images of Fashion-MNIST, for one GPU.

python -m moco_jax.data.fashion IDX_FOLDER --npz fashion.npz
python -m moco_jax.main --config=configs/fashion_r18.py --workdir=DIR
Hours and result: not measured yet (benchmarks/RESULTS.md).
"""

from configs import demo
from moco_jax import config
from moco_jax.config import ConfigDict


def get_config() -> ConfigDict:
    c = demo.get_config()
    c.epochs = 100.0
    c.data.update(source="npz:fashion.npz", batch_size=512)
    c.model.resnet.update(width=1.0, stem="cifar")
    c.method.update(queue_size=16384, bn_group_size=64, projector=config.mlp(hidden=0))
    c.optim.base_lr = 0.06
    c.knn.update(every_epochs=10.0, k=20)
    c.log.every_steps = 50
    c.checkpoint.every_steps = 1000
    return c
