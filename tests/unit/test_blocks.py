"""How blocks are computed - again for the gradient, in a loop, by a fused kernel - not what."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree

from moco_jax import config, mesh, models
from moco_jax.models import attention
from moco_jax.models.attention import Projections, choose_attention, fused, plain
from moco_jax.models.block import gelu

SMALL = {"vit_tiny": {"width": 32, "depth": 3, "heads": 2}, "resnet18": {"width": 1 / 16}}


def make(name, remat="none", dtype=jnp.float32, **record):
    model = config.default().model
    model.name, model.remat = name, remat
    (model.vit if name.startswith("vit") else model.resnet).update(SMALL[name] | record)
    return models.make_backbone(model, 32, 2, jnp.dtype(dtype))


def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(8, 32, 32, 3)), jnp.float32)


@partial(jax.jit, static_argnums=0)
def start(net):
    """Parameters and statistics, random."""
    variables = net.init(jax.random.key(0), images(), train=False)
    return variables.pop("params"), variables


def gradient(net):
    """A function of parameters and statistics: loss and renewed statistics, and the gradient."""

    def loss(params, stats):
        x, new = net.apply(
            {"params": params} | stats, images(), train=True, mutable=["batch_stats"]
        )
        weights = np.random.default_rng(1).normal(size=x.shape)
        return jnp.sum(x * weights.astype(np.float32)), new

    return jax.value_and_grad(loss, has_aux=True)


def assert_the_same(net, other):
    """Outcome and gradient for the variables of `other`."""
    variables = start(other)
    a, b = (ravel_pytree(jax.jit(gradient(n))(*variables))[0] for n in (net, other))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def products(net, kind):
    """How many products of a kind the gradient computes; a loop's count once."""
    variables = jax.eval_shape(partial(start, net))
    return len(re.findall(rf"= {kind}\[", str(jax.make_jaxpr(gradient(net))(*variables))))


@pytest.mark.parametrize("name", ["vit_tiny", "resnet18"])
@pytest.mark.parametrize("remat", ["products", "full"])
def test_rematerialized_blocks_are_the_same(name, remat):
    """Parameters' names included: the variables are those of the other network."""
    norm = {"norm": "batch"} if name == "vit_tiny" else {}
    assert_the_same(make(name, remat, **norm), make(name, **norm))


def test_policies_compute_again_what_they_say():
    """Attention's products have a batch dimension: 'products' computes them again."""
    dots = {remat: products(make("vit_tiny", remat), "dot_general") for remat in REMAT}
    in_attention = 2 * 3  # of each block
    # The last product of a block is not needed for the gradient.
    assert dots["products"] == dots["none"] + in_attention
    assert dots["full"] > dots["products"]
    convolutions = {
        remat: products(make("resnet18", remat), "conv_general_dilated") for remat in REMAT
    }
    assert convolutions["products"] == convolutions["none"] < convolutions["full"]


REMAT = ("none", "products", "full")


@pytest.mark.parametrize("remat", REMAT)
def test_a_loop_over_the_blocks_is_the_same(remat):
    other = make("vit_tiny")
    loop = make("vit_tiny", remat, scan=True)
    assert_the_same(loop, other)
    jax.tree.map(np.testing.assert_array_equal, start(loop), start(other))
    assert products(loop, "dot_general") < products(other, "dot_general")


@pytest.mark.parametrize("record", [{"norm": "batch"}, {"drop_path": 0.1}])
def test_a_loop_needs_blocks_that_are_alike(record):
    with pytest.raises(ValueError, match=r"model.vit.scan needs blocks that are all alike"):
        make("vit_tiny", scan=True, **record)


def test_unknown_names_give_the_nearest():
    with pytest.raises(ValueError, match=r"model.remat='ful' .* did you mean 'full'"):
        make("resnet18", "ful")
    with pytest.raises(ValueError, match=r"model.vit.attention='plane' .* did you mean 'plain'"):
        make("vit_tiny", attention="plane")


@pytest.mark.parametrize(
    ("backend", "name", "head", "dtype", "expected"),
    [
        ("gpu", "auto", 64, "bfloat16", fused),
        ("gpu", "auto", 80, "bfloat16", fused),
        ("gpu", "plain", 64, "bfloat16", plain),
        ("gpu", "auto", 64, "float32", plain),
        ("gpu", "auto", 12, "bfloat16", plain),
        ("gpu", "auto", 136, "bfloat16", plain),
        ("cpu", "auto", 64, "bfloat16", plain),
        ("tpu", "auto", 64, "bfloat16", plain),
    ],
)
def test_attention_is_fused_where_it_can_be(backend, name, head, dtype, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert choose_attention(name, head, jnp.dtype(dtype)) is expected


def test_narrow_gelu_is_exact():
    """Against SciPy in float64: half a unit of bfloat16, and what erf lacks far left.

    The gradient takes one unit: it is rounded twice.
    """
    x = jnp.concatenate([jnp.linspace(-9, 9, 20_001), jnp.array([0.0, -1e-3, 30.0, -30.0])])
    x = x.astype(jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    phi, density = scipy.stats.norm.cdf(wide), scipy.stats.norm.pdf(wide)
    y, gradient = jax.vmap(jax.value_and_grad(gelu))(x)
    assert y.dtype == gradient.dtype == jnp.bfloat16
    unit = float(jnp.finfo(jnp.bfloat16).eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), wide * phi, rtol=unit / 2, atol=6e-7)
    slope = phi + wide * density
    np.testing.assert_allclose(np.asarray(gradient, np.float64), slope, rtol=unit, atol=2e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_apart_are_those_of_one(dtype):
    """As many units of the type as sums of 32 and their gradients take; the parameters' names."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 32)), dtype)
    one, apart = (Projections(4, how, dtype) for how in (False, True))
    params = one.init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, params, apart.init(jax.random.key(0), x))

    def value_and_gradient(net):
        def loss(params, x):
            y = jnp.stack(net.apply(params, x)).astype(jnp.float32)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)), y

        return jax.tree.leaves(jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)[1:])

    for a, b in zip(*map(value_and_gradient, (one, apart)), strict=True):
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        np.testing.assert_allclose(a, b, atol=2 * float(jnp.finfo(dtype).eps) * np.abs(b).max())


@pytest.mark.parametrize(
    ("dtype", "width", "apart"),
    [("bfloat16", 128, True), ("bfloat16", 64, False), ("float32", 128, False)],
)
def test_products_are_apart_where_it_pays(dtype, width, apart):
    """Narrow types with heads of 64 features; float32 is computed as ever, bit by bit."""
    net = attention.Attention(2, plain, jnp.dtype(dtype))
    x = jnp.zeros((1, 3, width), dtype)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    text = str(jax.make_jaxpr(net.apply)(params, x))
    # Two of attention itself, one of the output, and those of the projections.
    assert text.count("= dot_general[") == 3 + (3 if apart else 1)


def attention_gradient(attend, dtype, n=197, heads=12, d=64):
    rng = np.random.default_rng(0)
    q, k, v, g = (jnp.asarray(rng.normal(size=(4, n, heads, d)), dtype) for _ in range(4))

    def loss(q, k, v):
        y = attend(q, k, v)
        return jnp.sum(y.astype(jnp.float32) * g.astype(jnp.float32)), y

    return jax.value_and_grad(loss, (0, 1, 2), has_aux=True), (q, k, v)


def test_fused_attention_traces_under_strict_promotion(monkeypatch):
    """As far as a machine without a GPU goes; JAX asks for the version of cuDNN, and gets one."""
    kernel = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91000)
    f, arguments = attention_gradient(fused, jnp.bfloat16)
    (_, y), gradients = jax.eval_shape(f, *arguments)
    assert all(a.dtype == jnp.bfloat16 and a.shape == y.shape for a in (y, *gradients))


@pytest.mark.parametrize("attend", [fused, plain])
def test_attention_on_each_devices_rows_sums_the_gradient_once(attend, monkeypatch):
    """Inside `by_rows`, where JAX must know that what the kernel gives differs by device."""
    kernel = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91000)

    def encode(scale, x):
        return jax.checkpoint(lambda y: attend(y, y, y))(x * scale)

    def loss(scale, x):
        return jnp.sum(mesh.by_rows(encode)(scale, x).astype(jnp.float32))

    x = jax.ShapeDtypeStruct((16, 17, 2, 8), jnp.bfloat16)
    gradient = mesh.inside(mesh.make_mesh(), jax.grad(loss))
    jaxpr = jax.make_jaxpr(gradient)(jax.ShapeDtypeStruct((), jnp.bfloat16), x)
    assert len(re.findall(r"= psum", str(jaxpr))) == 1


@pytest.mark.parametrize("n", [16, 17])
def test_padded_tokens_have_no_effect(n):
    """By XLA's implementation, in float32: what is added around the kernel."""
    small = {"dtype": jnp.float32, "n": n, "heads": 2, "d": 8}
    f, arguments = attention_gradient(partial(fused, kernel="xla"), **small)
    g, _ = attention_gradient(plain, **small)
    ours, theirs = jax.tree.leaves(f(*arguments)), jax.tree.leaves(g(*arguments))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def exact_attention(q, k, v, g):
    """Output and gradients in float64, by the formulas."""
    scale = q.shape[-1] ** -0.5
    logits = scale * np.einsum("bnad,bmad->banm", q, k)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    to_weights = np.einsum("bnad,bmad->banm", g, v)
    total = (to_weights * weights).sum(-1, keepdims=True)
    to_logits = scale * weights * (to_weights - total)
    return (
        np.einsum("banm,bmad->bnad", weights, v),
        np.einsum("banm,bmad->bnad", to_logits, k),
        np.einsum("banm,bnad->bmad", to_logits, q),
        np.einsum("banm,bnad->bmad", weights, g),
    )


@pytest.mark.parametrize("d", [32, 64])
def test_attention_in_bfloat16_against_float64(d):
    """Output and gradients within 2^-7 of the largest value, two roundings to 8 bits. In the mean
    1.3 times as far as JAX's own gradient of the same products, which keeps float32 weights."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(4, 33, 3, d)), jnp.bfloat16) for _ in range(4)]
    truths = exact_attention(*(np.asarray(a, np.float64) for a in arrays))
    results = []
    for f in (plain, attention._products):
        y, gradient = jax.vjp(f, *arrays[:3])
        results.append((y, *gradient(arrays[3])))
    for ours, theirs, truth in zip(*results, truths, strict=True):
        assert ours.dtype == jnp.bfloat16
        error, other = (np.abs(np.asarray(x, np.float64) - truth) for x in (ours, theirs))
        assert error.max() < 2**-7 * np.abs(truth).max()
        assert error.mean() < 1.3 * other.mean()


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("heads", "d"), [(12, 64), (12, 32), (16, 80)])
def test_fused_attention_is_plain_attention(heads, d):
    """bfloat16 has 8 bits: both are rounded by 2^-8 several times, so 2^-6 of the largest value.
    Against plain attention in float32 neither is further away."""
    f, arguments = attention_gradient(fused, jnp.bfloat16, heads=heads, d=d)
    g, _ = attention_gradient(plain, jnp.bfloat16, heads=heads, d=d)
    exact, _ = attention_gradient(plain, jnp.float32, heads=heads, d=d)
    ((_, y), grads), ((_, z), others) = jax.jit(f)(*arguments), jax.jit(g)(*arguments)
    (_, w), truths = jax.jit(exact)(*(a.astype(jnp.float32) for a in arguments))
    for a, b, truth in zip((y, *grads), (z, *others), (w, *truths), strict=True):
        a, b = (np.asarray(t, np.float32) for t in (a, b))
        bound = 2**-6 * np.abs(truth).max()
        assert np.abs(a - b).max() < bound
        assert np.abs(a - truth).max() < bound
