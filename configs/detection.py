"""Transfer to boxes, masks, keypoints and pixels: the whole network is fine-tuned on such labels.

python -m moco_jax.main --config=configs/detection.py:bccd_demo --config.data.source=voc:PATH
    --config.init=CHECKPOINT --workdir=DIR
with :voc_r50c4_24k, :coco_r50c4_1x, :coco_r50fpn_1x, :coco_r50fpn_2x, :coco_keypoint, :bccd_demo,
:voc_fcn, :cityscapes_fcn.
CHECKPOINT is a workdir or any file that moco_jax.convert reads, torchvision's supervised ones
included; without one the network starts from scratch.
COCO's files: --config.data.source=coco:instances_train2017.json:train2017
--config.evals.source=coco:instances_val2017.json:val2017, person_keypoints_*.json for keypoints.
Prepared by TFDS, boxes alone: --config.data.source=tfds:voc/2007,voc/2012 or tfds:coco/2017, which
have test images of their own (--config.evals.source='').

Published, VOC07+12 trainval, AP50/AP/AP75 on VOC07 test (arXiv:1911.05722, 2003.04297): supervised
81.3/53.5/58.8; MoCo v1, 200 epochs, 81.5/55.9/62.6; v2, 200 epochs, 82.4/57.0/63.6; v2, 800
epochs, 82.5/57.4/64.0. COCO (1911.05722, table 5, ImageNet-1M, AP of boxes and masks): R50-FPN 1x
supervised 38.9/35.4, MoCo 38.5/35.1; 2x 40.6/36.8, 40.8/36.9; R50-C4 1x 38.2/33.3, 38.5/33.6.
None of these was measured here. As in the release: RGB; nothing is frozen; SyncBN, also in what is
new; 16 images, rate 0.02, 100 steps of warm-up (from 0; there from a thousandth). VOC: 24k steps,
rate times 0.1 at 18k and 22k. 1x is 90k steps, times 0.1 at 60k and 80k; 2x twice that.
Steps are counted in epochs of 16,551 (VOC) and 117,266 (COCO) images with objects.

Semantic segmentation, mean IoU (1911.05722, table 6; 5 trials): VOC 2012 val from random weights
39.5, supervised 74.4, MoCo 72.5; Cityscapes val 65.3, 74.6, 75.3. :voc_fcn trains on the 10,582
images of VOC and SBD, 30k steps of 16, rate 0.003; :cityscapes_fcn on 2,975, 90k steps, 0.01; times
0.1 after 70% and 90% (its appendix).

:bccd_demo takes BCCD's 364 images of blood cells, with a quarter of a ResNet-18's channels: 13
minutes of one CPU core, AP50/AP/AP75 on the 72 test images 89.5/56.1/63.3 from scratch.
"""

from moco_jax import config
from moco_jax.config import ConfigDict

VOC, COCO, PEOPLE = 16_551, 117_266, 64_115  # images with objects
VARIANTS = (
    "voc_r50c4_24k", "coco_r50c4_1x", "coco_r50fpn_1x", "coco_r50fpn_2x", "coco_keypoint",
    "bccd_demo", "voc_fcn", "cityscapes_fcn",
)  # fmt: skip
_ANNOTATED = "coco:annotations/{0}_train2017.json:train2017"
_TESTED = "coco:annotations/{0}_val2017.json:val2017"


def get_config(variant: str = "bccd_demo") -> ConfigDict:
    variant = config.choose("variant", variant, VARIANTS)
    if variant == "bccd_demo":
        return small()
    if variant == "voc_fcn":
        return on_pixels("voc:VOCdevkit/VOC2012", 30_000, 0.003, 10_582)
    if variant == "cityscapes_fcn":
        c = on_pixels("cityscapes:cityscapes", 90_000, 0.01, 2975)
        c.data.eval_batch_size = 8
        c.segmentation.update(crop=(769, 769), canvas=(1025, 2049))
        return c
    if variant == "voc_r50c4_24k":
        c = released(24_000, (18_000, 22_000), VOC)
        c.data.source = "voc:VOCdevkit/VOC2007,VOCdevkit/VOC2012"
        c.detection.update(eleven_points=True, sides=tuple(range(480, 801, 32)))
        return on_c4(c)
    times = 2 if variant.endswith("2x") else 1
    keypoints = variant == "coco_keypoint"
    images = PEOPLE if keypoints else COCO
    c = released(times * 90_000, (times * 60_000, times * 80_000), images)
    kind = "person_keypoints" if keypoints else "instances"
    c.data.source, c.evals.source = _ANNOTATED.format(kind), _TESTED.format(kind)
    c.detection.update(masks=not keypoints, keypoints=keypoints)
    return on_c4(c) if "c4" in variant else c


def released(steps: int, drops: tuple[int, ...], images: int) -> ConfigDict:
    """What all recipes of the release share."""
    c = transfer()
    c.model.name = "resnet50"
    c.data.update(batch_size=16, eval_batch_size=16)
    epochs = c.data.batch_size / images  # of a step
    c.epochs = steps * epochs
    c.optim.update(
        base_lr=0.02 * 256 / 16,
        schedule="step",
        step_epochs=tuple(drop * epochs for drop in drops),
        warmup_epochs=100 * epochs,
    )
    c.detection.sides = tuple(range(640, 801, 32))
    c.checkpoint.every_steps = 5000
    return c


def on_pixels(source: str, steps: int, rate: float, images: int) -> ConfigDict:
    """MoCo's semantic segmentation; all parameters decay."""
    c = transfer()
    c.protocol, c.model.name = "segmentation", "resnet50"
    c.data.update(source=source, batch_size=16, eval_batch_size=16)
    epochs = c.data.batch_size / images  # of a step
    c.epochs = steps * epochs
    drops = (steps * 7 // 10 * epochs, steps * 9 // 10 * epochs)
    c.optim.update(base_lr=rate * 256 / 16, schedule="step", step_epochs=drops, exclude=())
    c.checkpoint.every_steps = 5000
    return c


def on_c4(c: ConfigDict) -> ConfigDict:
    """The head of boxes is the ResNet's last stage; detectron2's counts of proposals."""
    c.detection.update(network="c4", proposals=(12_000, 2000), test_proposals=(6000, 1000))
    return c


def transfer() -> ConfigDict:
    """What all detection shares."""
    c = config.default()
    c.protocol, c.init_part, c.method.bn_group_size = "detection", "backbone", 0
    c.optim.update(momentum=0.9, weight_decay=1e-4, exclude=("bn",))
    c.log.every_steps = 20
    return c


def small() -> ConfigDict:
    """Blood cells, of which the largest are 100 pixels wide here, on a third of the area."""
    c = transfer()
    c.data.update(source="voc:data/BCCD", batch_size=8, eval_batch_size=8)
    c.model.name = "resnet18"
    c.model.resnet.width = 0.25
    c.epochs = 20.0
    c.optim.update(base_lr=1.92, warmup_epochs=1.0)
    c.detection.update(
        channels=64, features=256, canvas=(256, 320), sides=(192, 208, 224, 240), test_side=240,
        longest=320, samples=128, proposals=(500, 200), test_proposals=(300, 200), boxes=40,
        precise_batches=20, every_epochs=10.0,
    )  # fmt: skip
    c.checkpoint.every_steps = 100
    return c
