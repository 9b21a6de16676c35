"""Losses, balanced assignments and the memory bank: limits, errors, precision, sharding."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moco_jax.errors import InputError
from moco_jax.ops.bank import bank_logits, chance_nce, log_partition, nce, renewed_rows
from moco_jax.ops.losses import (
    chance_info_nce,
    chance_nt_xent,
    chance_v3,
    contrastive_loss,
    feature_std,
    info_nce,
    l2_normalize,
    nt_xent,
    regression,
)
from moco_jax.ops.sinkhorn import chance_swav, sinkhorn, swapped_prediction
from tests.vectors import on_eight_devices, unit_vectors

normalize = jax.jit(l2_normalize)
against_queue = jax.jit(info_nce)
contrast = jax.jit(contrastive_loss)


def test_l2_normalize_of_bfloat16_is_float32_of_length_one():
    x = normalize(np.full((3, 5), 7, jnp.bfloat16))
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)


def test_l2_normalize_at_zero_is_zero_with_a_finite_gradient():
    zero = np.zeros((2, 3), np.float32)
    np.testing.assert_array_equal(normalize(zero), 0)
    assert np.isfinite(jax.jit(jax.grad(lambda x: l2_normalize(x).sum()))(zero)).all()


def test_info_nce_at_chance():
    q = np.tile(unit_vectors(0, 1, 8), (4, 1))
    loss, top1 = against_queue(q, q, np.tile(q[:1], (31, 1)), 0.2)
    np.testing.assert_allclose(loss, chance_info_nce(31), rtol=1e-6)
    assert chance_info_nce(31) == pytest.approx(math.log(32))
    assert top1 == 0  # ties are no success: a collapsed network does not look perfect


def test_contrastive_loss_at_chance_in_both_directions():
    q = np.tile(unit_vectors(0, 1, 8), (16, 1))
    loss, top1 = contrast(q, q, 0.2)
    np.testing.assert_allclose(2 * loss, chance_v3(16, 0.2), rtol=1e-5)
    assert chance_v3(16, 0.2) == pytest.approx(4 * 0.2 * math.log(16))
    assert top1 == 0


def test_losses_of_other_methods_at_chance():
    """Of equal features, but for BYOL, whose loss such features make 0."""
    z = np.tile(unit_vectors(0, 1, 8), (2, 16, 1))
    loss, top1 = jax.jit(nt_xent)(z, z, 0.5)
    np.testing.assert_allclose(loss, chance_nt_xent(16), rtol=1e-6)
    assert top1 == 0
    scores = np.full((4, 16, 30), 0.3, np.float32)
    targets = sinkhorn(scores[0], 0.05, 3)[None]
    np.testing.assert_allclose(swapped_prediction(scores, targets, 0.1), chance_swav(30), rtol=1e-6)
    logits = np.full(16, 5.0, np.float32), np.full((16, 31), 5.0, np.float32)
    loss, top1 = jax.jit(nce, static_argnums=3)(*logits, log_partition(*logits, 100), 100)
    np.testing.assert_allclose(loss, chance_nce(31), rtol=1e-5)
    assert top1 == 0
    assert regression(z[0], z[1]) == 0
    assert regression(z[0], -z[1]) == pytest.approx(4)


def test_nt_xent_of_one_image_is_zero():
    z = unit_vectors(0, 2, 1, 8)
    value, grad = jax.jit(jax.value_and_grad(lambda z: nt_xent(z, z, 1.0)[0]))(z)
    assert value == 0
    assert np.isfinite(grad).all()


def test_losses_of_perfect_keys_are_near_zero_with_full_top1():
    q = np.eye(8, dtype=np.float32)
    for loss, top1 in (against_queue(q[:4], q[:4], q[4:], 0.05), contrast(q, q, 0.05)):
        assert 0 <= loss < 1e-6
        assert top1 == 1


def test_contrastive_loss_of_one_image_is_zero():
    q = unit_vectors(0, 1, 8)
    value, grad = jax.jit(jax.value_and_grad(lambda q: contrastive_loss(q, q, 1.0)[0]))(q)
    assert value == 0
    assert np.isfinite(grad).all()


def test_top1_is_the_share_of_queries_that_find_their_key():
    keys = np.eye(4, dtype=np.float32)
    queries = keys[[0, 1, 3, 2]]
    assert contrast(queries, keys, 1.0)[1] == 0.5
    # Queries 2 and 3 are at right angles to their keys, and to some of the negatives.
    assert against_queue(queries, keys, -keys, 1.0)[1] == 0.5


@pytest.mark.parametrize(
    "loss",
    [
        lambda q: info_nce(q, q, np.eye(8, dtype=np.float32), 1.0)[0],
        lambda q: contrastive_loss(q, q, 1.0)[0],
        lambda q: nt_xent(*2 * [jnp.stack([q, q])], 1.0)[0],
        lambda q: nce(*bank_logits(q, q, q, 1.0), jnp.float32(1), 9)[0],
        lambda q: swapped_prediction(jnp.stack([q, q]), jnp.stack([q, q]), 1.0),
    ],
)
def test_every_product_has_full_precision(loss):
    q = unit_vectors(0, 4, 8)
    text = str(jax.make_jaxpr(jax.grad(loss))(q))
    assert text.count("dot_general") > 1
    assert text.count("precision=(Precision.HIGHEST") == text.count("dot_general")


def test_info_nce_holds_no_second_matrix_of_logits():
    q, queue = unit_vectors(0, 32, 8), unit_vectors(1, 4096, 8)
    step = jax.jit(jax.value_and_grad(lambda q: info_nce(q, q, queue, 0.2)[0]))
    logits = 4 * 32 * 4096
    assert step.lower(q).compile().memory_analysis().temp_size_in_bytes < 2.5 * logits


def test_losses_are_the_same_on_eight_devices():
    q, k, queue = unit_vectors(0, 16, 8), unit_vectors(1, 16, 8), unit_vectors(2, 20, 8)

    @jax.jit
    def losses(q, k):
        z, targets = jnp.stack([q, k]), sinkhorn(k, 0.05, 3)
        return (
            *info_nce(q, k, queue, 0.2),
            *contrastive_loss(q, k, 0.2),
            *nt_xent(z, z, 0.2),
            *nce(*bank_logits(q, k, queue, 0.2), jnp.float32(1), 9),
            regression(q, k),
            swapped_prediction(z, targets[None], 0.1),
        )

    sharded = losses(on_eight_devices(q), on_eight_devices(k))
    np.testing.assert_allclose(sharded, losses(q, k), rtol=1e-6)


def test_assignments_do_not_overflow_and_are_the_same_on_eight_devices():
    """Scores of 1e4 at an epsilon of 0.05 are exponents of 2e5; float32 ends at 88."""
    assign = jax.jit(partial(sinkhorn, epsilon=0.05, iterations=3))
    for scale in (1.0, 1e4):
        scores = scale * unit_vectors(0, 16, 10)
        alone = assign(scores)
        np.testing.assert_allclose(assign(on_eight_devices(scores)), alone, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.sum(alone, axis=1), 1, rtol=1e-4)
        assert np.isfinite(alone).all()


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.0, 3), (-1.0, 3), (np.nan, 3), (0.05, 0)])
def test_bad_options_of_sinkhorn(epsilon, iterations):
    with pytest.raises(InputError, match=rf"epsilon={epsilon} .* iterations={iterations} "):
        sinkhorn(unit_vectors(0, 4, 3), epsilon, iterations)


def test_swapped_prediction_needs_another_view():
    with pytest.raises(InputError, match="1 view"):
        swapped_prediction(unit_vectors(0, 1, 4, 3), unit_vectors(0, 1, 4, 3), 0.1)


def test_a_bank_by_rows_is_updated_as_a_whole_one():
    """Bitwise; an image that comes twice is written by its first row."""
    bank, features = unit_vectors(0, 40, 8), unit_vectors(1, 16, 8)
    index = np.int32([5, 39, 0, 5, *range(10, 20), 39, 1])

    @jax.jit
    def step(bank, index, features):
        rows, values = renewed_rows(bank, index, features, 0.5)
        return bank.at[rows].set(values, mode="drop", unique_indices=True)

    got = step(on_eight_devices(bank), on_eight_devices(index), on_eight_devices(features))
    np.testing.assert_array_equal(got, step(bank, index, features))


def test_feature_std_is_one_when_isotropic_and_zero_when_collapsed():
    isotropic = unit_vectors(0, 2048, 32)
    std = jax.jit(feature_std)
    np.testing.assert_allclose(std(isotropic), 1, atol=0.01)
    np.testing.assert_allclose(std(5 * isotropic), std(isotropic), rtol=1e-5)
    assert std(isotropic[:1] * np.linspace(1, 9, 2048, dtype=np.float32)[:, None]) < 1e-6
