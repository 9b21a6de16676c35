"""The linear probe against PyTorch's SGD, and a whole step of fine-tuning against timm's ViT.

Weights after 200 steps of momentum to 1e-4, as the issue asks: float32 on both sides, the sums in
another order. One step of AdamW to 2e-6 where its rate is 1e-4: near zero, the sign of a gradient
hangs on its last bits, and a step is at most the rate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import traverse_util

from tests.parity import torchvision_ops  # noqa: F401  isort: skip  lets timm import torchvision
from timm.loss import SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moco_jax import config, convert
from moco_jax.checkpoint import named
from moco_jax.methods.method import Batch, Facts
from moco_jax.ops import mix as mixing
from moco_jax.optim import make_heads_optimizer, make_optimizer, make_schedule, parameter_groups
from moco_jax.protocols import supervised
from moco_jax.training.step import init_state, make_train_step
from tests.parity.torch_weights import nchw, randomize

pytestmark = pytest.mark.parity

STEPS, N, B, F, K = 200, 256, 32, 12, 5
RATES = (0.3, 0.01, 0.07)  # far larger ones do not converge and amplify every rounding


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(N, F)).astype(np.float32) * rng.uniform(0.2, 1, F).astype("f")
    features += rng.normal(size=F).astype(np.float32)
    labels = (features @ rng.normal(size=(F, K)) + rng.normal(size=(N, K))).argmax(-1)
    rows = rng.integers(0, N, (STEPS, B))
    return features, labels.astype(np.int32), rows


def probe(rates, batch_norm=False, schedule="step"):
    """Method, optimizer and schedule of a probe on features of F numbers."""
    c = config.default()
    c.protocol, c.method.bn_group_size = "supervised", 0
    c.model.name = "pixels"
    c.data.batch_size = 256  # of which the rate is told
    c.optim.update(base_lr=rates[0], weight_decay=0.0, schedule=schedule, step_epochs=(6.0, 8.0))
    c.supervised.update(augment=False, lrs=rates[1:], batch_norm=batch_norm)
    method = supervised.make(c, Facts(N, K, (2, 2, F // 4), STEPS, STEPS / 10))
    shape = make_schedule(c.optim, c.data.batch_size, STEPS, STEPS / 10)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    return method, make_heads_optimizer(c.optim, params, shape, method.heads), shape


def whole(entries, which):
    return entries["image"]


def train(data, method, tx, schedule):
    features, labels, rows = data
    state = init_state(method, tx, jax.random.key(0))
    first = jax.tree.map(np.asarray, state.params["classifier"])
    frozen = {"backbone": {}, "classifier": {"kernel": False, "bias": False}}
    step = jax.jit(make_train_step(method, tx, schedule, frozen, seed=0))
    for row in rows:
        state, _ = step(state, Batch({"features": features[row], "label": labels[row]}, None))
    return first, state


def torch_head(data, first, rate, schedule, batch_norm=False):
    """A head trained alone in PyTorch, from the same weights, and its BatchNorm."""
    features, labels, rows = (torch.from_numpy(x.copy()) for x in data)
    head, norm = nn.Linear(F, K), nn.BatchNorm1d(F, affine=False)
    head.weight.data = torch.from_numpy(first["kernel"].T.copy())
    head.bias.data = torch.from_numpy(first["bias"].copy())
    shape = np.asarray(jax.vmap(schedule)(jnp.arange(STEPS))).tolist()
    sgd = torch.optim.SGD(head.parameters(), 1.0, momentum=0.9)
    for i, row in enumerate(rows):
        sgd.param_groups[0]["lr"] = rate * shape[i]
        x = norm(features[row]) if batch_norm else features[row]
        sgd.zero_grad()
        nn.functional.cross_entropy(head(x), labels[row].long()).backward()
        sgd.step()
    return head, norm


@pytest.mark.parametrize("shape", ["step", "cosine"])
def test_all_heads_of_a_sweep_are_those_of_pytorch(data, shape):
    method, tx, schedule = probe(RATES, batch_norm=True, schedule=shape)
    first, state = train(data, method, tx, schedule)
    classifier = state.params["classifier"]
    assert classifier["kernel"].shape == (6, F, K)
    assert abs(first["kernel"]).max() < 0.06
    assert first["kernel"].std() == pytest.approx(0.01, rel=0.2)
    for head in range(6):
        start = {name: leaf[head] for name, leaf in first.items()}
        rate = RATES[head % 3] / RATES[0]
        theirs, norm = torch_head(data, start, rate, schedule, batch_norm=head >= 3)
        moved = np.abs(classifier["kernel"][head] - start["kernel"]).max()
        assert moved > 0.1
        np.testing.assert_allclose(
            classifier["kernel"][head], theirs.weight.detach().T, rtol=0, atol=1e-4
        )
        np.testing.assert_allclose(
            classifier["bias"][head], theirs.bias.detach(), rtol=0, atol=1e-4
        )
    stats = state.method_state["stats"]["classifier"]
    np.testing.assert_allclose(stats["mean"][0], norm.running_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"][0], norm.running_var, rtol=1e-5)


@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_swept_head_is_the_same_head_trained_alone(data, head):
    """The products are of other sizes, and their sums in another order: 1e-5."""
    swept = train(data, *probe(RATES))[1].params["classifier"]
    alone = train(data, *probe(RATES[head : head + 1]))[1].params["classifier"]
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(swept[name][head], alone[name][0], rtol=0, atol=1e-5)


def finetuning(vit_depth=2, width=48, heads=4, size=32, patch=8):
    c = config.default()
    c.protocol, c.method.bn_group_size = "supervised", 0
    c.model.name = "vit_tiny"
    c.model.vit.update(
        patch=patch, width=width, depth=vit_depth, heads=heads, position="learned", pool="cls"
    )
    c.data.update(image_size=size, batch_size=256)
    c.optim.update(
        name="adamw", base_lr=1e-4, weight_decay=0.05, exclude_1d=True,
        exclude=("cls_token", "pos_embed"), schedule="cosine",
    )  # fmt: skip
    c.supervised.update(train_backbone=True, label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    return c


@pytest.mark.parametrize("cut", [False, True])
def test_a_step_of_fine_tuning_is_timms(cut, monkeypatch):
    c = finetuning()
    # The keys' bias has a gradient of 0: with Adam's 1e-8 its first step is that of rounding.
    c.optim.eps = 1e-5
    size, classes = c.data.image_size, 7
    model = VisionTransformer(
        img_size=size, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=classes
    )
    randomize(model, 0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, size, size, 3)).astype(np.float32)
    labels = rng.integers(0, classes, 8).astype(np.int32)
    box = jnp.array([4.0, 8.0, 10.0, 12.0]) if cut else jnp.zeros((4,))
    mix = mixing.Mix(jnp.float32(1 - 120 / size**2 if cut else 0.3), box)
    monkeypatch.setattr(supervised, "sample_mix", lambda *_: mix)

    method = supervised.make(c, Facts(8, classes, (size, size, 3), 10, 1.0))
    schedule = lambda step: jnp.float32(1e-4)  # noqa: E731
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
    tx = make_optimizer(c.optim, shapes, schedule, method.layers)
    state = init_state(method, tx, jax.random.key(0))
    params = weights_of(model)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    groups = parameter_groups(c.optim, params)
    state = state._replace(params=jax.tree.map(jnp.asarray, params))
    step = make_train_step(method, tx, schedule, jax.tree.map(lambda _: False, params), 0)
    state, row = jax.jit(step)(state, Batch({"image": images, "label": labels}, whole))

    excluded = {*model.no_weight_decay()}
    named_parameters = dict(model.named_parameters())
    plain = [p for n, p in named_parameters.items() if p.ndim <= 1 or n in excluded]
    decayed = [p for n, p in named_parameters.items() if not (p.ndim <= 1 or n in excluded)]
    assert len(plain) == jax.tree.leaves(groups).count("excluded")
    adamw = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.05}],
        lr=1e-4,
        eps=1e-5,
    )
    one_hot = 0.9 * np.eye(classes, dtype=np.float32)[labels] + np.float32(0.1 / classes)
    targets = mixing.mix_targets(one_hot, mix)
    logits = model(nchw(np.asarray(mixing.mix_images(images, mix))))
    loss = SoftTargetCrossEntropy()(logits, torch.from_numpy(np.array(targets)))
    loss.backward()
    adamw.step()

    np.testing.assert_allclose(row["loss"], loss.item(), rtol=1e-5)
    ours, theirs = named(state.params), named(weights_of(model))
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=0, atol=2e-6, err_msg=name)


def weights_of(model):
    """A timm model's weights under our names: those that reading its file gives."""
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.pth"
        torch.save(model.state_dict(), path)
        leaves = convert.read(path, heads=4).leaves
    params = {n.removeprefix("params/"): x for n, x in leaves.items() if n.startswith("params/")}
    return traverse_util.unflatten_dict(params, sep="/")
