"""R50-FPN as a whole against torchvision's fasterrcnn_resnet50_fpn on copied weights.

Relative to the largest value, 1e-4 in float32: see test_resnet.py. torchvision's detector crops
without the half pixel, which is set right here, and has the background as the first class.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision.models import detection as peer
from torchvision.ops import boxes as box_ops
from torchvision.ops import poolers

from moco_jax.detection import anchors
from moco_jax.detection.boxes import decode
from moco_jax.detection.detector import PyramidDetector
from moco_jax.detection.proposals import propose
from tests.boxes import greedy, random_boxes
from tests.parity.torch_weights import RENAMES, convert, nchw, randomize, relative_error
from tests.parity.torchvision_pool import roi_align

pytestmark = pytest.mark.parity

CLASSES, CHANNELS, CELLS = 4, 256, 7
NAMES = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.(layer\d)\.(\d)", r"backbone.\1_\2"),
    (r"^backbone\.fpn\.inner_blocks\.(\d)\.0", lambda m: f"pyramid.lateral{2 + int(m[1])}.conv"),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0", lambda m: f"pyramid.output{2 + int(m[1])}.conv"),
    (r"^rpn\.head\.conv\.0\.0", "proposal_head.conv.conv"),
    (r"^rpn\.head\.cls_logits", "proposal_head.objectness.conv"),
    (r"^rpn\.head\.bbox_pred", "proposal_head.deltas.conv"),
    (r"^roi_heads\.box_head\.fc6", "box_head.fc1"),
    (r"^roi_heads\.box_head\.fc7", "box_head.fc2"),
    (r"^roi_heads\.box_predictor\.cls_score", "predictor.classes"),
    (r"^roi_heads\.box_predictor\.bbox_pred", "predictor.deltas"),
)


def torch_detector():
    torch.manual_seed(0)
    made = peer.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1
    )
    model = randomize(made, 0).eval()
    for module in model.modules():
        if hasattr(module, "bn3"):  # see test_resnet.py
            module.bn3.weight.data *= 0.3
    return model


def as_ours(model):
    """Flattened crops go by channel first there; the background is the first class."""
    variables = convert(model.state_dict(), (*NAMES, *RENAMES))
    params = variables["params"]
    first = params["box_head"]["fc1"]
    kernel = first["kernel"].reshape(CHANNELS, CELLS, CELLS, -1)
    first["kernel"] = kernel.transpose(1, 2, 0, 3).reshape(first["kernel"].shape)
    for leaf, values in params["predictor"]["classes"].items():
        params["predictor"]["classes"][leaf] = np.roll(values, -1, axis=-1)
    for leaf, values in params["predictor"]["deltas"].items():
        params["predictor"]["deltas"][leaf] = values[..., 4:]
    return variables


def torch_outputs(model, x, found, monkeypatch):
    """Maps, what the proposal head says of each, and what the box head says of fixed boxes."""
    monkeypatch.setattr(poolers, "roi_align", roi_align)
    with torch.no_grad():
        maps = model.backbone(nchw(x))
        proposed = model.rpn.head(list(maps.values()))
        heads = model.roi_heads
        crops = heads.box_roi_pool(maps, list(torch.tensor(found)), [x.shape[1:3]] * len(x))
        return list(maps.values()), proposed, heads.box_predictor(heads.box_head(crops))


def test_forward(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 64, 96, 3)).astype(np.float32)
    found = np.minimum(random_boxes(rng, 12, 96), [96, 64, 96, 64]).astype(np.float32)
    found = found.reshape(2, 6, 4)
    found[0, 1] = 0, 0, 96, 64
    model, mask = torch_detector(), np.ones((2, 6), bool)
    net = PyramidDetector(CLASSES, norm=False)

    def forward(variables):
        maps = net.apply(variables, x, False, method=net.maps)
        proposed = net.apply(variables, maps, method=net.propose)
        return maps, *proposed, *net.apply(variables, maps, found, mask, False, method=net.classify)

    variables = as_ours(model)
    shapes = jax.eval_shape(lambda k: net.init(k, x, found, mask, False), jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    maps, our_scores, our_coded, our_classes, our_deltas = jax.jit(forward)(variables)
    their_maps, (scores, coded), (classes, deltas) = torch_outputs(model, x, found, monkeypatch)
    for ours, theirs in zip(maps, their_maps, strict=True):
        assert relative_error(ours, theirs.permute(0, 2, 3, 1)) < 1e-4
    for ours, theirs in zip(our_scores, scores, strict=True):
        assert relative_error(ours, theirs.permute(0, 2, 3, 1).flatten(1)) < 1e-4
    for ours, theirs in zip(our_coded, coded, strict=True):
        assert relative_error(ours, theirs.permute(0, 2, 3, 1).reshape(ours.shape)) < 1e-4
    wanted = classes.roll(-1, dims=1).reshape(2, 6, CLASSES + 1)
    assert relative_error(our_classes, wanted) < 1e-4
    wanted = deltas[:, 4:].reshape(2, 6, CLASSES, 4)
    assert relative_error(our_deltas, wanted) < 1e-4


def test_proposals_as_torchvisions_filter(monkeypatch):
    """On the same logits and decoded boxes; its suppression is the definition of tests/boxes.py."""

    def batched(boxes, scores, levels, threshold):
        every = np.ones(len(boxes), bool)
        return torch.tensor(greedy(*(np.asarray(a) for a in (boxes, scores)), every, threshold,
                                   levels.numpy()))  # fmt: skip

    monkeypatch.setattr(box_ops, "batched_nms", batched)
    rng = np.random.default_rng(0)
    shapes, strides = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)], PyramidDetector.strides
    own = anchors.pyramid_anchors(shapes, strides, PyramidDetector.anchor_sizes)
    logits = [rng.normal(0, 3, len(a)).astype(np.float32) for a in own]
    coded = [rng.normal(0, 0.3, (len(a), 4)).astype(np.float32) for a in own]
    rpn = peer.rpn.RegionProposalNetwork(
        None, None, 0.7, 0.3, 256, 0.5, {"testing": 100}, {"testing": 60}, 0.7
    ).eval()
    decoded = [decode(*pair, (1, 1, 1, 1)) for pair in zip(coded, own)]
    boxes, scores = rpn.filter_proposals(
        torch.tensor(np.concatenate(decoded))[None], torch.tensor(np.concatenate(logits))[None],
        [(60, 90)], [len(a) for a in own],
    )  # fmt: skip
    run = jax.jit(propose, static_argnums=(4, 5))
    got, got_scores, mask = run(logits, coded, own, np.array([60, 90]), 100, 60)
    assert mask.all()
    np.testing.assert_allclose(got, boxes[0], atol=1e-3)
    np.testing.assert_allclose(jax.nn.sigmoid(got_scores), scores[0], atol=1e-6)
