"""Shapes, parameter counts, precision and errors of backbones and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import InvalidRngError
from jax.flatten_util import ravel_pytree

from moco_jax import config, models
from moco_jax.models.block import drop_path
from moco_jax.models.heads import make_head
from moco_jax.models.resnet import ResNet, convolve
from moco_jax.models.tokens import patch_grid
from moco_jax.models.vit import ViT
from tests.networks import at, count, images, init, make, make_small, shapes

# Without classifier and without position embedding, which is no parameter.
PARAMETERS = {
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "vit_tiny": 5_486_592,
    "vit_small": 21_590_016,
    "vit_base": 85_647_360,
    "vit_large": 303_099_904,
    "vit_huge": 630_435_840,
}
FEATURES = {
    "resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048,
    "vit_tiny": 192, "vit_small": 384, "vit_base": 768, "vit_large": 1024, "vit_huge": 1280,
}  # fmt: skip


# Sizes


def test_all_backbones_are_listed():
    assert set(models.BACKBONES) == {*PARAMETERS, "pixels"}  # which has none


@pytest.mark.parametrize("name", PARAMETERS)
def test_backbone(name):
    patch = {"patch": 14} if name == "vit_huge" else {}
    net = make(name, size=224, **patch)
    features, variables = shapes(net, 2, 224, 224, 3)
    assert count(variables["params"]) == PARAMETERS[name]
    assert net.num_features == FEATURES[name]
    assert (features.shape, features.dtype) == ((2, FEATURES[name]), jnp.float32)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    blocks = [k for k in variables["params"] if k.startswith(("layer", "blocks_"))]
    assert net.layers[0] in ("conv1", "patch_embed")
    assert set(net.layers[1:]) == set(blocks)
    assert net.layers[-1] == max(blocks, key=lambda k: (k[:6], int(k.split("_")[1])))
    assert all(count(variables["params"][path]) for path in net.layers)


@pytest.mark.parametrize(
    ("height", "width", "stride"),
    [(1, 1, 1), (2, 2, 1), (2, 1, 1), (2, 2, 2), (3, 3, 2), (4, 4, 2), (4, 3, 2), (5, 4, 2)],
)
def test_convolution_of_the_smallest_maps(height, width, stride):
    """As XLA's own, with both gradients; 1e-5: sums of 9 x 5 products in another order."""
    x, kernel = images(3, height, width, 5), images(3, 3, 5, 4)
    strides, padding = (stride, stride), [(1, 1), (1, 1)]
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def outcome(conv):
        y, back = jax.vjp(lambda *a: conv(*a, strides, padding, **options), x, kernel)
        return y, *back(jnp.cos(y))

    for ours, theirs in zip(outcome(convolve), outcome(jax.lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_only_the_smallest_maps_are_products():
    def operations(side):
        net = make("resnet18", size=side, width=1 / 8)
        x = jnp.zeros((1, side, side, 3))
        variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
        return str(jax.make_jaxpr(lambda v: net.apply(v, x, train=False))(variables))

    # Of 17 convolutions larger than 1x1, those of the stages with maps of 2x2 and 1x1.
    assert operations(224).count("dot_general") == 0
    assert operations(32).count("dot_general") == 8


@pytest.mark.parametrize(("width", "millions"), [(2, 94), (4, 375)])
def test_wide_resnet50(width, millions):
    """Table 6 of arXiv:2002.05709 (SimCLR) states these counts."""
    net = make("resnet50", size=224, width=width)
    features, variables = shapes(net, 2, 64, 64, 3)
    assert features.shape == (2, 2048 * width)
    assert round(count(variables["params"]) / 1e6) == millions


@pytest.mark.parametrize(("stem", "sides"), [("imagenet", (16, 8)), ("cifar", (64, 32))])
def test_resnet_stem(stem, sides):
    net = make_small("resnet", stem=stem)
    run = lambda key, x: net.init_with_output(key, x, train=False, capture_intermediates=True)  # noqa: E731
    _, state = jax.eval_shape(run, jax.random.key(0), images(1, 64, 64, 3))
    outputs = [state["intermediates"][block]["__call__"][0] for block in ("layer1_1", "layer2_1")]
    assert tuple(x.shape[1] for x in outputs) == sides


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_any_number_of_channels(family, channels):
    net = make_small(family)
    assert shapes(net, 2, 32, 32, channels)[0].shape == (2, net.num_features)


def test_conv_stem_takes_the_place_of_a_block():
    net = make("vit_small", stem="conv", size=224)
    _, variables = shapes(net, 2, 224, 224, 3)
    params = variables["params"]
    assert net.layers[-1] == "blocks_10"
    assert sum(name.startswith("blocks_") for name in params) == 11
    outputs = [params["patch_embed"][f"conv{i}"]["kernel"].shape[-1] for i in range(1, 5)]
    assert outputs == [48, 96, 192, 384]
    assert net.layers[0] == "patch_embed/conv1"
    assert count(at(params, net.layers[0])) == 9 * 3 * 48
    assert make("vit_small", stem="conv", depth=5, size=224).depth == 5


@pytest.mark.parametrize("position", ["sincos", "learned", "none"])
@pytest.mark.parametrize("pool", ["cls", "avg_norm", "avg"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_vit_options(position, pool, norm):
    net = make_small("vit", position=position, pool=pool, norm=norm)
    features, variables = shapes(net, 2, 32, 48, 3, train=True)
    params = variables["params"]
    assert features.shape == (2, 64)
    assert ("cls_token" in params) == (pool == "cls")
    assert ("norm" in params) == (pool != "avg")
    assert ("pos_embed" in params) == (position == "learned")
    if position == "learned":
        assert params["pos_embed"].shape == (1, 6 + (pool == "cls"), 64)
    assert ("batch_stats" in variables) == (norm == "batch")


@pytest.mark.parametrize("position", ["sincos", "learned", "none"])
def test_position_embedding_tells_places_apart(position):
    x = images(1, 32, 32, 3)
    swapped = np.concatenate([x[:, :, 16:], x[:, :, :16]], axis=2)
    net = make_small("vit", position=position, pool="avg_norm", depth=1)
    variables = init(net, x)
    run = jax.jit(lambda x: net.apply(variables, x, train=False))
    a, b = run(x), run(swapped)
    assert (np.abs(a - b).max() > 1e-4) == (position != "none")


# Heads


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("last_bn", [False, True])
def test_head_layers(bias, last_bn):
    record = config.mlp(layers=3, hidden=0, out=8, bias=bias, bn=True, last_bn=last_bn)
    head = make_head(record, 1, jnp.dtype("bfloat16"))
    y, variables = shapes(head, 4, 24)
    assert (y.shape, y.dtype) == ((4, 8), jnp.float32)
    params = variables["params"]
    assert params["fc2"]["kernel"].shape == (24, 24)
    assert ("bias" in params["fc1"]) == ("bias" in params["fc3"]) == bias
    assert set(params["bn1"]) == {"scale", "bias"}
    assert ("bn3" in variables["batch_stats"]) == last_bn
    assert "bn3" not in params


def test_head_without_layers_is_the_identity():
    head, x = make_head(config.mlp(layers=0), 1, jnp.float32), images(4, 24)
    np.testing.assert_array_equal(head.apply({}, x, train=True), x)


# Precision


RESNET = ResNet(stages=(1, 1), bottleneck=False, width=1 / 4, stem="cifar")
VIT = ViT(width=64, depth=1, heads=4)


@pytest.mark.parametrize("wide", [RESNET, VIT])
def test_bfloat16(wide):
    """Close to float32 on the same parameters; these, statistics and output stay float32."""
    x = images(8, 32, 32, 3)
    narrow = wide.clone(dtype=jnp.bfloat16)
    variables = init(narrow, x)
    weights = images(8, wide.num_features)
    mutable = ["batch_stats", "intermediates"]

    def forward(params, net):
        inputs = {**variables, "params": params}
        y, state = net.apply(inputs, x, train=True, mutable=mutable, capture_intermediates=True)
        inner = state.pop("intermediates")[net.layers[-1]]["__call__"][0]
        return jnp.sum(y * weights), (y, state, inner)

    run = jax.jit(jax.grad(forward, has_aux=True), static_argnums=1)
    grads, (y, state, inner) = run(variables["params"], narrow)
    assert (inner.dtype, y.dtype) == (jnp.bfloat16, jnp.float32)
    assert {v.dtype for v in jax.tree.leaves((variables, state, grads))} == {jnp.dtype("float32")}
    want_grads, (want, _, _) = run(variables["params"], wide)
    assert 1e-6 < np.abs(y - want).max() / np.abs(want).max() < 0.05
    # ReLUs near their kink fall either way, so the gradient's direction is all that stays.
    for layer in (narrow.layers[0], narrow.layers[-1]):
        a, b = (ravel_pytree(at(tree, layer))[0] for tree in (grads, want_grads))
        assert jnp.vdot(a, b) > 0.8 * jnp.linalg.norm(a) * jnp.linalg.norm(b)


def test_resolve_dtype(monkeypatch):
    for backend, auto in (("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert models.resolve_dtype("auto") == jnp.dtype(auto)
        assert models.resolve_dtype("float32") == jnp.float32
        assert models.resolve_dtype("bfloat16") == jnp.bfloat16


# Stochastic depth


def test_drop_path_leaves_out_whole_images_and_keeps_the_mean():
    x = np.tile(np.float32([[[1, 2], [3, 4], [5, 6]]]), (2000, 1, 1))
    out = np.asarray(jax.jit(drop_path)(x, 0.3, jax.random.key(0)))
    dropped = np.all(out == 0, axis=(1, 2))
    assert abs(dropped.mean() - 0.3) < 0.04
    np.testing.assert_allclose(out[~dropped], x[~dropped] / 0.7, rtol=1e-6)


def test_drop_path_acts_in_training_only_and_by_its_key():
    plain, net = make_small("vit"), make_small("vit", drop_path=0.5)
    variables, x = init(plain, images(1, 32, 32, 3)), images(8, 32, 32, 3)
    assert jax.tree.structure(shapes(net, 1, 32, 32, 3)[1]) == jax.tree.structure(variables)
    train = jax.jit(lambda key: net.apply(variables, x, True, rngs={"dropout": key}))
    first, again, other = (np.asarray(train(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    evaluation = [jax.jit(n.apply, static_argnums=2)(variables, x, False) for n in (plain, net)]
    np.testing.assert_array_equal(*evaluation)
    with pytest.raises(InvalidRngError):
        jax.eval_shape(lambda: net.apply(variables, x, True))


# Errors


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("resnet51", {}, "model.name='resnet51'.*did you mean 'resnet"),
        ("vit_smal", {}, "did you mean 'vit_small'"),
        ("resnet18", {"stem": "cifr"}, "model.resnet.stem='cifr'.*did you mean 'cifar'"),
        ("resnet18", {"width": 0.0}, "model.resnet.width=0.0.*nearest"),
        ("vit_tiny", {"stem": "convs"}, "did you mean 'conv'"),
        ("vit_tiny", {"position": "sin-cos"}, "did you mean 'sincos'"),
        ("vit_tiny", {"pool": "clss"}, "did you mean 'cls'"),
        ("vit_tiny", {"norm": "layers"}, "did you mean 'layer'"),
        ("vit_tiny", {"patch": 15}, "32 pixels.*patch size 15; nearest: 30"),
        ("vit_tiny", {"patch": 64}, "32 pixels.*patch size 64; nearest: 64"),
        ("vit_tiny", {"patch": 0}, "model.vit.patch=0 must be at least 1"),
        ("vit_tiny", {"depth": -1}, "model.vit.depth=-1 must be at least 1"),
        ("vit_tiny", {"patch": 8, "stem": "conv"}, "model.vit.patch=8 must be 16"),
        ("vit_tiny", {"width": 90}, "width=90 must be a multiple of 4.*nearest: 88"),
        ("vit_tiny", {"width": 92, "stem": "conv"}, "width=92 must be a multiple of 8"),
        ("vit_tiny", {"drop_path": 1.0}, "drop_path=1.0 must be 0 or more and below 1"),
        ("vit_tiny", {"norm_eps": 0.0}, "model.vit.norm_eps=0.0 must be above 0"),
        ("vit_tiny", {"norm": "batch", "norm_eps": 1e-5}, "1e-05 is LayerNorm's, and norm='batch'"),
        ("vit_tiny", {"heads": 5}, "model.vit.heads=5 must divide the width 192; nearest: [46]"),
    ],
)
def test_errors_at_build(name, record, message):
    with pytest.raises(ValueError, match=message):
        make(name, **record)


def test_images_that_patches_do_not_tile():
    with pytest.raises(ValueError, match=r"30 pixels.*nearest: 32"):
        shapes(make_small("vit"), 2, 32, 30, 3)
    assert patch_grid(32, 48, 16) == (2, 3)


@pytest.mark.parametrize("field", ["layers", "hidden", "out"])
def test_head_errors(field):
    with pytest.raises(ValueError, match=f"{field}=-1 must be at least"):
        make_head(config.mlp(**{field: -1}), 1, jnp.float32)


def test_unknown_dtype():
    with pytest.raises(ValueError, match="did you mean 'bfloat16'"):
        models.resolve_dtype("bfloat")
