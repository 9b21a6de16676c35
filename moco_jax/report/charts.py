"""The charts of a report: which columns of metrics.jsonl stand together, and what to look for."""

from typing import NamedTuple

from moco_jax.report.derived import CONTRAST_CHANCE, LOSS_GAP


class Curve(NamedTuple):
    """A column of metrics.jsonl in a chart.

    Attributes:
      column: its name there.
      label: in the legend.
      dash: of the line, as plotly calls it.
      level: only its value at step 0 is drawn, as a line across the chart.
    """

    column: str
    label: str
    dash: str = "solid"
    level: bool = False


class Group(NamedTuple):
    """A chart.

    Attributes:
      title: above it.
      unit: at its vertical axis.
      note: one sentence on what to look for.
      curves: what it shows.
      log: whether the vertical axis is logarithmic.
      bounded: whether values are in [0, 1].
      share: whether they are shown in per cent; they are in [0, 1] then.
      reaches: values that the vertical axis shows in any case.
    """

    title: str
    unit: str
    note: str
    curves: tuple[Curve, ...]
    log: bool = False
    bounded: bool = False
    share: bool = False
    reaches: tuple[float, ...] = ()


GROUPS = (
    Group(
        "Loss", "nats",
        "Chance: what a network that knows nothing would have.",
        (Curve("loss", "loss"), Curve("loss_chance", "chance", "dash")),
    ),
    Group(
        "Loss above chance", "nats",
        "0 is what a network that knows nothing would have; the lower the better. Only of one "
        "method and temperature does a lower loss mean more.",
        (Curve(LOSS_GAP, "loss minus chance"),),
    ),
    Group(
        "kNN accuracy", "top-1",
        "Below raw pixels, the features tell less than the images themselves.",
        (
            Curve("knn_top1", "features"),
            Curve("knn_top1", "before training", "dash", level=True),
            Curve("knn_top1_raw", "raw pixels", "dot", level=True),
        ),
        share=True,
    ),
    Group(
        "Average precision", "AP",
        "On the test images. AP is the mean over overlaps from 0.5 to 0.95.",
        (
            Curve("AP50", "boxes, overlap 0.5", "dot"),
            Curve("AP75", "boxes, overlap 0.75", "dashdot"),
            Curve("AP", "boxes"),
            Curve("masks_AP", "masks", "longdashdot"),
            Curve("keypoints_AP", "keypoints", "longdash"),
        ),
        share=True,
    ),
    Group(
        "Classes of pixels", "share",
        "On the test images, all pixels together. IoU is the mean over the classes.",
        (Curve("mIoU", "mean IoU"), Curve("pixel_accuracy", "pixels whose class is found", "dot")),
        share=True,
    ),
    Group(
        "Parts of the loss", "nats",
        "Boxes and classes rise at first: the more proposals hold an object, the more there is to "
        "learn of them.",
        (
            Curve("loss_objectness", "objectness of anchors"),
            Curve("loss_proposals", "boxes of anchors", "dot"),
            Curve("loss_classes", "classes", "dashdot"),
            Curve("loss_boxes", "boxes", "longdashdot"),
            Curve("loss_masks", "masks", "longdash"),
            Curve("loss_keypoints", "keypoints", "8px,2px"),
        ),
    ),
    Group(
        "Contrast accuracy", "top-1",
        "How often the right key, or prototype, is the nearest one. It falls where the others are "
        "harder to tell apart: as keys of images take the place of the random vectors that a queue "
        "begins with, and as a falling learning rate keeps old keys as good as new ones. A fall "
        "while kNN accuracy rises is no fault; at chance, nothing is learned.",
        (
            Curve("contrast_top1", "right key is nearest"),
            Curve("assignment_top1", "the other view's prototype is nearest", "dot"),
            Curve(CONTRAST_CHANCE, "chance", "dash"),
        ),
        share=True, reaches=(0,),
    ),
    Group(
        "Spread of features", "standard deviation",
        "1: the features fill the sphere. 0: they have collapsed.",
        (
            Curve("feature_std", "the method's, in training"),
            Curve("backbone_std", "the backbone's, of test images", "dot"),
        ),
        bounded=True, reaches=(0, 1),
    ),
    Group(
        "Effective rank", "RankMe",
        "How many directions the backbone's features use: it falls when they collapse.",
        (Curve("rank_me", "backbone's features"),), reaches=(0,),
    ),
    Group(
        "Alignment and uniformity", "the lower the better",
        "Alignment: how far apart two views of an image are. Uniformity: how evenly the features "
        "fill the sphere.",
        (Curve("alignment", "alignment"), Curve("uniformity", "uniformity", "dot")),
    ),
    Group(
        "Gradient norm", "L2 norm", "Instability starts as a spike in the first layer.",
        (
            Curve("grad_norm_first", "first layer"),
            Curve("grad_norm_first_max", "first layer, its largest step", "longdashdot"),
            Curve("grad_norm_last", "last layer", "dot"),
            Curve("grad_norm", "all layers", "dashdot"),
        ),
        log=True,
    ),
    Group(
        "Learning rate", "learning rate", "", (Curve("learning_rate", "learning rate"),),
        reaches=(0,),
    ),
    Group(
        "EMA coefficient", "m", "The share of itself that the momentum encoder keeps in a step.",
        (Curve("ema", "EMA coefficient"),), bounded=True,
    ),
    Group(
        "Throughput", "images / s", "", (Curve("images_per_second", "training"),), reaches=(0,)
    ),
    Group(
        "Waiting for data", "share of time",
        "Time in which the device had nothing to do: more than a few per cent is worth a look.",
        (Curve("input_wait", "waiting"),), share=True, reaches=(0, 0.05),
    ),
)  # fmt: skip
LOSSES = (GROUPS[1], GROUPS[0])  # what is left out of one run's report, and of several runs'
