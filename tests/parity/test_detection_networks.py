"""The parts of the detectors against torchvision's and PyTorch's layers, on copied weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets torchvision be imported
from torchvision import ops
from torchvision.models import resnet
from torchvision.models.detection import keypoint_rcnn, mask_rcnn, rpn

from moco_jax.detection.box_heads import LastStage
from moco_jax.detection.dense_heads import KeypointHead, MaskHead
from moco_jax.detection.proposal_head import ProposalHead
from moco_jax.detection.pyramid import Pyramid
from tests.parity.torch_weights import RENAMES, convert, largest_error, nchw, randomize
from tests.parity.torch_weights import relative_error as error

pytestmark = pytest.mark.parity


def maps(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def nhwc(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_pyramid(norm, train):
    xs = maps((2, 16, 24, 3), (2, 8, 12, 4), (2, 4, 6, 5), seed=1)
    kind = torch.nn.BatchNorm2d if norm else None
    extra = ops.feature_pyramid_network.LastLevelMaxPool()
    peer = randomize(ops.FeaturePyramidNetwork([3, 4, 5], 6, extra, kind), 0).train(train)
    ours = Pyramid(6, norm)
    renames = [
        (r"inner_blocks\.(\d)\.", lambda m: f"lateral{2 + int(m[1])}."),
        (r"layer_blocks\.(\d)\.", lambda m: f"output{2 + int(m[1])}."),
        (r"\.0\.(\w+)$", r".conv.\1"),
        (r"\.1\.(\w+)$", r".bn.\1"),
    ]
    variables = convert(peer.state_dict(), renames)
    run = jax.jit(lambda xs: ours.apply(variables, xs, train, mutable=["batch_stats"]))
    got, new = run(xs)
    wanted = peer({str(i): nchw(x) for i, x in enumerate(xs)}).values()
    for one, other in zip(got, wanted, strict=True):
        assert error(one, nhwc(other)) < 1e-5
    if norm:
        after = convert(peer.state_dict(), renames)["batch_stats"]
        assert largest_error(new["batch_stats"], after) < 1e-5


def test_proposal_head():
    xs = maps((2, 8, 12, 5), (2, 3, 2, 5))
    peer = randomize(rpn.RPNHead(5, 3), 0)
    renames = [(r"conv\.0\.0", "conv.conv"), ("cls_logits", "objectness.conv")]
    variables = convert(peer.state_dict(), [*renames, ("bbox_pred", "deltas.conv")])
    logits, deltas = jax.jit(lambda xs: ProposalHead(3).apply(variables, xs))(xs)
    scores, regression = peer([nchw(x) for x in xs])
    for i in range(len(xs)):  # each alone, as its order is by image first
        theirs = rpn.concat_box_prediction_layers([scores[i]], [regression[i]])
        assert error(logits[i].reshape(-1, 1), theirs[0].detach()) < 1e-5
        assert error(deltas[i].reshape(-1, 4), theirs[1].detach()) < 1e-5


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("convolutions", [0, 2])
def test_mask_head(convolutions, norm):
    kind = torch.nn.BatchNorm2d if norm else None
    head = mask_rcnn.MaskRCNNHeads(5, [6] * convolutions, 1, norm_layer=kind)
    width = 6 if convolutions else 5
    peer = torch.nn.Sequential(head, mask_rcnn.MaskRCNNPredictor(width, 6, 4))
    peer = randomize(peer, 0).eval()
    renames = [
        (r"^0\.(\d)\.", lambda m: f"conv{int(m[1]) + 1}."),
        (r"^(conv\d)\.0\.", r"\1.conv."),
        (r"^(conv\d)\.1\.", r"\1.bn."),
        (r"^1\.conv5_mask", "deconv"),
        (r"^1\.mask_fcn_logits", "masks.conv"),
    ]
    variables = convert(peer.state_dict(), renames)
    ours = MaskHead(4, convolutions, 6, norm)
    (x,) = maps((3, 7, 7, 5))
    got = jax.jit(lambda x: ours.apply(variables, x, np.ones(3, bool), False))(x)
    assert got.shape == (3, 14, 14, 4)
    assert error(got, nhwc(peer(nchw(x)))) < 1e-5


def test_keypoint_head():
    head = keypoint_rcnn.KeypointRCNNHeads(5, (6, 7))
    peer = randomize(torch.nn.Sequential(head, keypoint_rcnn.KeypointRCNNPredictor(7, 3)), 0)
    renames = [
        (r"^0\.(\d)\.", lambda m: f"conv{int(m[1]) // 2 + 1}.conv."),
        (r"^1\.kps_score_lowres", "deconv"),
    ]
    variables = convert(peer.state_dict(), renames)
    (x,) = maps((3, 7, 7, 5))
    ours = KeypointHead(3, (6, 7))
    got = jax.jit(lambda x: ours.apply(variables, x, np.ones(3, bool), False))(x)
    assert got.shape == (3, 28, 28, 3)
    assert error(got, nhwc(peer(nchw(x)))) < 1e-5


def test_last_stage_with_the_extra_norm():
    """In training, with padded crops that the peer never sees; an eighth of the channels."""
    down = torch.nn.Sequential(
        torch.nn.Conv2d(128, 256, 1, 2, bias=False), torch.nn.BatchNorm2d(256)
    )
    blocks = [resnet.Bottleneck(128, 64, 2, down), *(resnet.Bottleneck(256, 64) for _ in range(2))]
    peer = torch.nn.Sequential(torch.nn.Sequential(*blocks), torch.nn.BatchNorm2d(256))
    peer = randomize(peer, 0).train()
    renames = [(r"^0\.(\d)\.", r"layer4_\1."), (r"^1\.", "extra_bn."), *RENAMES]
    variables = convert(peer.state_dict(), renames)
    (x,) = maps((6, 4, 4, 128))
    mask = np.array([True, True, False, True, True, False])
    ours = LastStage(width=1 / 8)
    run = jax.jit(lambda x: ours.apply(variables, x, mask, True, mutable=["batch_stats"]))
    got, new = run(x)
    assert got.shape == (6, 2, 2, 256)
    assert error(np.asarray(got)[mask], nhwc(peer(nchw(x[mask])))) < 1e-4
    after = convert(peer.state_dict(), renames)["batch_stats"]
    assert largest_error(new["batch_stats"], after) < 1e-4
    assert jnp.isfinite(got).all()
