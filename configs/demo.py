"""MoCo v2 on the Fashion-MNIST images that ship with the package; nothing to download.

python -m moco_jax.main --config=configs/demo.py --workdir=runs/demo          (or: make demo)
python -m moco_jax.main --config=configs/demo.py:long --workdir=runs/demo_long
2 CPU cores, 5 minutes: kNN top-1 81.6 (untrained encoder 27.5, raw pixels 81.2).
The long run, three times as many steps, about 12 minutes: 83.2.
The ablations of v1 and v2 as arguments: configs/demo.py:short,m=0.9,mlp=off (configs/v2_r50.py).
"""

from configs import v2_r50
from moco_jax import config
from moco_jax.ablations import ablated, one_of
from moco_jax.config import ConfigDict


def _steps(c: ConfigDict) -> None:
    """The shares of the run at which v1's rate falls."""
    c.optim.update(schedule="step", step_epochs=(0.6 * c.epochs, 0.8 * c.epochs))


ABLATIONS = v2_r50.ABLATIONS | {
    "schedule": one_of("schedule", {"cosine": {}, "step": _steps}),
}
# What the runs of a study change in a demonstration, so that each takes a minute.
STUDY = {
    "epochs": 16.0,
    "optim.step_epochs": (9.6, 12.8),
    "knn.every_epochs": 2.0,
    "evals.every_epochs": 4.0,
    "log.every_steps": 25,
}


def get_config(argument: str = "short") -> ConfigDict:
    return ablated(argument, _recipe, ("short", "long"), ABLATIONS)


def _recipe(variant: str) -> ConfigDict:
    c = config.default()
    c.epochs = 80.0 if variant == "short" else 240.0
    c.data.update(source="embedded", batch_size=128, image_size=28, eval_crop_share=1.0)
    c.model.name = "resnet18"
    c.model.resnet.update(width=0.25, zero_init_residual=True)
    c.method.update(temperature=0.1, ema=0.99, queue_size=2048, projector=config.mlp(hidden=0))
    c.optim.update(base_lr=0.2, weight_decay=5e-4)
    c.knn.update(every_epochs=20.0 if variant == "short" else 30.0, k=20)
    c.evals.every_epochs = c.knn.every_epochs
    c.log.every_steps = 100
    c.checkpoint.every_steps = 500
    return c
