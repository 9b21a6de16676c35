"""Every option of the trainer, once: its default, its unit and where the default comes from.

A file in `configs/` calls `default()` (or another config) and overrides a few fields. The
defaults are MoCo v2's on ImageNet (arXiv:2003.04297). The dict is locked: an unknown field is
an error that names the nearest known one, on the command line as in a file.
"""

import difflib
import json
import logging
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from moco_jax.errors import InputError

log = logging.getLogger(__name__)

OPTIMIZERS = ("sgd", "lars", "lamb", "adamw")
SCHEDULES = ("cosine", "step")
BACKENDS = ("auto", "cpu", "gpu", "tpu")
DTYPES = ("auto", "float32", "bfloat16")
PROTOCOLS = ("pretraining", "supervised", "detection", "segmentation")
DETECTORS = ("fpn", "c4")
FEATURES = ("backbone", "projection")  # what an encoder gives
EXTENSIONS = ("stretch", "restart", "hold")
EVALS = ("knn", "rank_me", "alignment_uniformity", "backbone_std", "unchanged", "accuracy")
INIT_PARTS = ("all", "weights", "backbone")


def view(**overrides: Any) -> ConfigDict:
    """One augmented view: `order` names the operations, in turn; the rest are their settings.

    Jitter is (brightness, contrast, saturation, hue) with torchvision's meaning. The defaults
    are MoCo v2's.
    """
    c = ConfigDict()
    c.size = 0  # pixels; 0: data.image_size
    c.crop_area = (0.2, 1.0)  # share of the image's area, uniform
    c.crop_ratio = (3 / 4, 4 / 3)  # width / height, log-uniform
    c.order = ("jitter", "grayscale", "blur", "flip")  # also: "solarize", "randaugment", "erase"
    c.jitter = (0.4, 0.4, 0.4, 0.1)
    c.jitter_p = 0.8
    c.grayscale_p = 0.2
    c.blur_p = 0.5
    c.blur_sigma = (0.1, 2.0)  # pixels, uniform
    c.blur_at = 224  # width of a view that sigma is meant for, scaled to the view's; 0: not scaled
    c.solarize_p = 0.2
    c.solarize_threshold = 128 / 255
    c.flip_p = 0.5
    c.erase_p = 0.25  # the settings of erasing are DeiT's (arXiv:2012.12877)
    c.erase_area = (0.02, 1 / 3)  # share of the view's area, uniform
    c.erase_ratio = (0.3, 1 / 0.3)  # width / height, log-uniform
    c.randaugment_layers = 2  # as in DeiT: 'rand-m9-mstd0.5-inc1' of timm
    c.randaugment_p = 0.5  # of each layer
    c.randaugment_magnitude = 9.0  # of 10, normally distributed and cut to 0 to 10
    c.randaugment_std = 0.5
    c.update(overrides)
    return c.lock()


def mlp(**overrides: Any) -> ConfigDict:
    """A projection or prediction head; `layers=0` means none."""
    c = ConfigDict()
    c.layers = 2
    c.hidden = 2048  # features; 0: as many as the backbone gives
    c.out = 128  # features
    c.bias = True
    c.bn = False  # BatchNorm, then ReLU, after each hidden layer
    c.last_bn = False  # BatchNorm without scale and offset after the last layer
    c.update(overrides)
    return c.lock()


def default() -> ConfigDict:
    """All options with their defaults, locked."""
    c = ConfigDict()
    c.seed = 0  # of everything random
    c.epochs = 200.0  # passes over the training images
    c.extended_from = ()  # a run made longer: the epochs that it was to have before, in turn
    c.extension = "stretch"  # its schedules over all epochs: the rate jumps up; restart: from there
    # on as of a new run; hold: with their last values
    c.protocol = "pretraining"  # supervised: linear probe, fine-tuning; detection: boxes, masks;
    # segmentation: a class for every pixel
    c.init = ""  # checkpoint to start from, in any format that moco_jax.convert reads; "": random
    c.init_encoder = ""  # of several in a file: query, key, or its name; "": query, or a teacher
    c.init_partial = False  # take what fits of a file, and list what does not
    c.init_part = "all"  # weights: without optimizer and step; backbone: nothing else
    c.init_recipe = False  # of a workdir: its images, network, image size, mean and std, where the
    # command line does not say others
    c.profile = ""  # START:STOP: a trace of the steps after START to STOP, in the workdir; "": none
    c.compilation_cache = ""  # directory of compiled programs, for all hosts; "": JAX's own
    c.backend = "auto"  # cpu, gpu, tpu: an error where it is missing; auto: what JAX finds

    c.data = d = ConfigDict()
    d.source = "tfds:imagenet2012"  # also embedded, folder:PATH, npz:PATH, hf:NAME, wds:PATTERN
    d.image_column = ""  # of hf:, tfds: and wds:, which images; "": the only ones
    d.label_column = ""  # of hf:, tfds: and wds:, which labels; "": the only ones, or named so
    d.label_share = 1.0  # of the training images of each class, at least one; 1: all, or unlabelled
    d.test_share = 0.0  # of the labelled images of each class, held out as test images; 0: none
    d.test_seed = 0  # of these; not of `seed`, so that every run and evaluation has the same
    d.batch_size = 256  # images over ALL devices and hosts
    d.image_size = 224  # pixels, of the square views
    d.view1 = view()
    d.view2 = view()  # supervised training has one view, the first
    d.small_view = view(size=96, crop_area=(0.05, 0.14))  # of swav (2006.09882, appendix A)
    d.mean = ()  # per channel, of pixels in [0, 1]; (): ImageNet's for colour, else measured
    d.std = ()
    d.eval_crop_share = 0.875  # central share of the short side that evaluation sees: 224/256
    d.eval_batch_size = 256  # images over all devices
    d.threads = 0  # that decode and crop, over all processes of the host; 0: one per core
    d.processes = 0  # that these threads run in; 1: the trainer itself; 0: one for 8 threads
    d.prefetch = 2  # batches made ready ahead of the step
    d.max_bad_share = 0.01  # share of unreadable images above which the run stops
    d.max_pixels = 100_000_000  # of an image; larger ones count as unreadable and are not decoded
    d.levels = 0  # value of 16-bit pixels that is white: 4095 of 12 bits; 0: 65535, the upper byte
    d.read_seconds = 60.0  # that an image, or any sign of a folder's listing, may take; 0: no limit
    d.array_gb = 4.0  # encoded images of one size up to 64 x 64 become an array up to this size
    d.resident_gb = 4.0  # an array up to this size lies on each device; larger ones are sent
    d.cache_dir = ""  # of lists of images; "": $XDG_CACHE_HOME/moco_jax or ~/.cache/moco_jax

    c.model = m = ConfigDict()
    m.name = "resnet50"  # resnet18..152, vit_tiny, vit_small, vit_base, vit_large, vit_huge, pixels
    m.dtype = "auto"  # of the computation: bfloat16 on GPU and TPU, float32 on CPU
    m.remat = "none"  # compute again for the gradient, per block: "products": all else; "full"
    m.resnet = r = ConfigDict()
    r.width = 1.0  # multiplies every channel count
    r.stem = "imagenet"  # cifar: 3x3 convolution of stride 1, no max pooling
    r.zero_init_residual = False  # each residual branch's last BatchNorm starts at scale 0
    m.vit = v = ConfigDict()
    v.patch = 16  # pixels
    v.stem = "patch"  # conv: four 3x3 convolutions of stride 2, and one block less (2106.14881)
    v.position = "sincos"  # learned, none
    v.pool = "cls"  # class token after the last norm; avg_norm, avg: patches with, without it
    v.norm = "layer"  # batch: every LayerNorm replaced by BatchNorm
    v.norm_eps = 1e-6  # of LayerNorm, added to the variance; transformers' default is 1e-12
    v.width = 0  # features of a token; 0: the name's
    v.depth = 0  # blocks; 0: the name's
    v.heads = 0  # 0: the name's
    v.attention = "auto"  # cuDNN's fused kernel where it can run: GPU, bfloat16; plain: never
    v.scan = False  # blocks as a loop: compiles sooner, takes more memory
    v.drop_path = 0.0  # stochastic depth: share of images that the last block's branches leave out

    c.method = t = ConfigDict()
    t.name = "moco"  # v1 and v2; moco_v3, end_to_end, memory_bank, simclr, byol, swav
    t.temperature = 0.2
    t.ema = 0.999  # m, the share of itself that the key encoder keeps in a step
    t.ema_schedule = "constant"  # cosine: from `ema` to 1 over the run (BYOL's and v3's)
    t.queue_size = 65536  # K: keys of moco; rows that memory_bank draws; features of swav, 0: none
    t.symmetric = False  # both views as queries
    t.bn_group_size = 32  # images that share BatchNorm statistics; 0: the whole batch
    t.shuffle_bn = True  # keys are spread over the groups in another order than queries
    t.projector = mlp()
    t.predictor = mlp(layers=0)
    t.bank_loss = "info_nce"  # of memory_bank, in 1911.05722; nce: the original's (1805.01978)
    t.swav = w = ConfigDict()  # defaults: 2006.09882, public code
    w.prototypes = 3000
    w.epsilon = 0.05  # of Sinkhorn: the smaller, the sharper the assignments
    w.frozen_epochs = 1.0  # before the prototypes are trained
    w.small_views = 0  # views of data.small_view beside the two full-size ones
    w.queue_from_epoch = 15.0  # from which the queue counts, if there is one

    c.accumulate = 1  # slices of the batch in which the backbone runs, to save memory: exact

    c.mesh = e = ConfigDict()  # changes memory and speed; the numbers only by rounding
    e.fsdp = 1  # devices over which parameters and optimizer state are split; divides all devices
    e.shard_queue = False  # split the queue over all devices, by rows

    c.supervised = s = ConfigDict()
    s.train_backbone = False  # fine-tuning; False: linear probe, the backbone in evaluation mode
    s.augment = True  # False: features of the training images as evaluation sees them, made once
    s.lrs = ()  # rates that a probe sweeps at once beside optim.base_lr, in the same unit
    s.batch_norm = False  # sweep each rate also on features after BatchNorm without scale, offset
    s.held_out = 0.01  # share of the training images that chooses among several heads
    s.label_smoothing = 0.0  # share of a target that is spread over all classes (1512.00567)
    s.mixup = 0.0  # a of Beta(a, a), of which images are mixed (1710.09412); 0: none
    s.cutmix = 0.0  # the same for boxes cut out of another image (1905.04899)
    s.mix_p = 1.0  # probability that a batch is mixed at all
    s.cutmix_p = 0.5  # probability of cutmix rather than mixup, where both are on
    s.every_epochs = 10.0  # test accuracy; 0: at the end only

    c.detection = b = ConfigDict()  # data.source is voc:PATH, coco:JSON:IMAGES or tfds:NAME
    b.network = "fpn"  # feature pyramid; c4: the ResNet's last stage is the head of boxes
    b.masks = False  # learn the outlines, too
    b.keypoints = False  # and the keypoints; with fpn
    b.channels = 256  # of the pyramid and the mask head; a keypoint head has twice as many
    b.features = 1024  # of the two linear layers of the box head; fpn
    b.canvas = (1344, 1344)  # height and width, pixels, that images are put on
    b.more_canvases = ()  # ((1344, 800),), say: an image comes onto that on which it is largest
    b.sides = tuple(range(480, 801, 32))  # pixels of the short side, each drawn as often
    b.test_side = 800  # pixels
    b.longest = 1333  # pixels of the long side at most
    b.mirrored = 0.5  # share of the images
    b.boxes = 100  # true boxes of an image for which there is room; more are an error
    b.samples = 512  # proposals of an image that the heads learn from, at most a quarter objects
    b.proposals = (2000, 1000)  # of a map before suppression, and of an image after it, in training
    b.test_proposals = (1000, 1000)  # the same in the test
    b.precise_batches = 200  # that give the BatchNorm statistics of a test; 0: the running ones
    b.eleven_points = False  # VOC's precision at 11 recalls, as of VOC 2007; False: the area
    b.spreads = ()  # of each keypoint, COCO's sigmas, for its average precision; (): COCO's of 17
    b.every_epochs = 0.0  # average precision on the test images; 0: at the end only

    c.segmentation = p = ConfigDict()  # data.source is voc:PATH or cityscapes:PATH
    p.channels = 256  # of the two convolutions after the ResNet
    p.crop = (513, 513)  # height and width, pixels, that are trained on; 16 times a number, and 1
    p.scales = (0.5, 2.0)  # range of the factor that an image is scaled by before
    p.mirrored = 0.5  # share of the images
    p.canvas = (513, 513)  # that a whole test image is put on, unscaled; 16 times a number, and 1
    p.every_epochs = 0.0  # mean IoU on the test images; 0: at the end only

    c.optim = o = ConfigDict()
    o.name = "sgd"  # lars, lamb, adamw
    o.base_lr = 0.03  # at 256 images; the rate used is base_lr * batch_size / 256
    o.schedule = "cosine"  # per step, to 0; step: times step_factor at each of step_epochs
    o.warmup_epochs = 0.0
    o.step_epochs = (120, 160)
    o.step_factor = 0.1
    o.weight_decay = 1e-4
    o.momentum = 0.9  # of sgd and lars
    o.b1 = 0.9  # of adamw and lamb
    o.b2 = 0.999
    o.eps = 1e-8
    o.trust_coefficient = 0.001  # of lars
    o.exclude_1d = False  # no decay and no trust ratio for parameters of one dimension or none
    o.exclude = ()  # the same for parameter paths by regular expression, e.g. "pos_embed"
    o.layer_decay = 1.0  # of the learning rate, a factor for each layer down; 1: none
    o.clip_norm = 0.0  # global gradient norm; 0: no clipping
    o.freeze = ()  # regular expressions of parameter paths, e.g. "backbone/patch_embed"

    c.evals = e = ConfigDict()
    e.names = EVALS  # what is measured; those that have no meaning for a run are left out
    e.source = ""  # of other, labelled images to measure on, as data.source; "": data.source
    e.every_epochs = 10.0  # of those without labels; 0: at the start and the end only
    e.images = 2048  # that those without labels look at, evenly spaced

    c.knn = k = ConfigDict()
    k.every_epochs = 10.0  # 0: never
    k.k = 0  # neighbours of the watched vote; 0: 200, below 10,000 images a fiftieth of them
    k.temperature = 0.07
    k.ks = (10, 20, 100, 200)  # results.json has each of these and k, at each temperature
    k.temperatures = (0.02, 0.2)
    k.features = "backbone"  # projection: of the CIFAR-10 demonstration
    k.max_train = 0  # images of the bank, evenly spaced; 0: all
    k.max_test = 0
    k.watch_train = 50_000  # at most so many before the end of the run; 0: max_train
    k.watch_test = 10_000

    c.log = g = ConfigDict()
    g.every_steps = 50
    g.tensorboard = True
    g.wandb = ""  # project at Weights & Biases that gets the metrics too; "": none
    g.max_nonfinite = 20  # steps in a row with a loss or gradient not finite that end the run

    c.checkpoint = s = ConfigDict()
    s.every_steps = 1000  # 0: only the last step
    s.keep_last = 3
    s.keep_every_steps = 0  # also keep every so many steps for good; 0: none
    s.allow_changes = False  # continue a run although its model, method, optimizer or data differ
    return c.lock()


def choose(name: str, value: str, known: Iterable[str]) -> str:
    """Returns `value` when it is one of `known`; otherwise a InputError naming the nearest.

    Args:
      name: of the option, for the error.
      value: of it.
      known: all that are valid.
    """
    known = sorted(known)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), known, 1, 0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name}={value!r} is not one of {', '.join(known)}{hint}")


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: plain dicts, lists for tuples."""
    return json.loads(config.to_json_best_effort())


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The options of a nested config by their dotted names, sorted.

    Args:
      config: nested, as `ConfigDict.to_dict` gives it.
      prefix: stands before every name.
    """
    options = {}
    for key, value in sorted(config.items()):
        nested = isinstance(value, dict)
        options |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return options
