"""kNN against float64 NumPy and scikit-learn's brute force.

Indices are equal: no two cosines of these random features are nearer than float32 tells apart, and
where they are equal, they are so exactly. Cosines within 1e-6, eight times float32's rounding.
Shares of the vote within 1e-5: a temperature of 0.07 multiplies the error of a cosine by 14.
"""

import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from moco_jax.mesh import make_mesh
from moco_jax.ops.neighbours import nearest, rank, vote

pytestmark = pytest.mark.parity
M, N, C, CLASSES = 50, 211, 16, 7


def mesh_of(devices):
    return make_mesh(jax.devices()[:devices])


def make_data(scale=2.0):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, C))
    labels = rng.integers(0, CLASSES, M + N)
    labels[M : M + CLASSES] = np.arange(CLASSES)  # scikit-learn knows the classes that it saw
    features = (centers[labels] + scale * rng.normal(size=(M + N, C))).astype(np.float32)
    return features[:M], features[M:], labels[M:]


def numpy_nearest(queries, bank, k, exclude_self=False):
    queries, bank = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in
                     (queries.astype(np.float64), bank.astype(np.float64)))  # fmt: skip
    cosine = queries @ bank.T
    if exclude_self:
        np.fill_diagonal(cosine, -np.inf)
    index = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosine, index, 1), index


def numpy_vote(cosine, labels, temperature):
    votes = np.zeros((len(cosine), CLASSES))
    for i, row in enumerate(cosine):
        for c, label in zip(row, labels[i]):
            if label >= 0:
                votes[i, label] += np.exp(c / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 20, N])
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("sizes", [{}, {"rows": 25, "chunk": 7}])
def test_neighbours_on_any_devices_in_any_chunks(devices, sizes, k):
    """Neither the devices nor the chunks divide 211 and 50."""
    queries, bank, _ = make_data()
    found = nearest(queries, bank, k, mesh_of(devices), **sizes)
    cosine, index = numpy_nearest(queries, bank, k)
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 8])
def test_leave_one_out(devices):
    _, bank, _ = make_data()
    found = nearest(bank, bank, 20, mesh_of(devices), exclude_self=True, chunk=64, rows=20)
    np.testing.assert_array_equal(found.index, numpy_nearest(bank, bank, 20, True)[1])


@pytest.mark.parametrize("k", [1, 40])
@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("rows", [None, 100])
def test_of_equally_similar_images_the_first_in_the_bank_comes_first(devices, rows, k):
    """Signs in 16 dimensions: 17 cosines, all exact. Also across the borders of chunks, blocks
    and devices."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2013, C)).astype(np.float32)
    signs[1500:] = signs[:513]
    found = nearest(signs[:30], signs, k, mesh_of(devices), rows=rows, chunk=11)
    cosine, index = numpy_nearest(signs[:30], signs, k)
    np.testing.assert_array_equal(found.cosine, cosine)
    np.testing.assert_array_equal(found.index, index)


def test_scikit_learn_finds_the_same():
    queries, bank, _ = make_data()
    sklearn = NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine").fit(bank)
    distance, index = sklearn.kneighbors(queries)
    found = nearest(queries, bank, 20, mesh_of(8))
    np.testing.assert_array_equal(found.index, index)
    np.testing.assert_allclose(1 - found.cosine, distance, atol=1e-6)


@pytest.mark.parametrize("k", [1, 20, 200])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_votes_against_numpy_and_scikit_learn(k, temperature):
    queries, bank, labels = make_data()
    found = nearest(queries, bank, 200, mesh_of(8))
    votes = vote(found.cosine[:, :k], labels[found.index[:, :k]], CLASSES, temperature)
    cosine, index = numpy_nearest(queries, bank, k)
    expected = numpy_vote(cosine, labels[index], temperature)
    np.testing.assert_allclose(votes, expected / expected.sum(1, keepdims=True), atol=1e-5)
    sklearn = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )  # fmt: skip
    sklearn.fit(bank.astype(np.float64), labels)
    np.testing.assert_allclose(votes, sklearn.predict_proba(queries.astype(np.float64)), atol=1e-5)
    predicted = sklearn.predict(queries.astype(np.float64))
    np.testing.assert_array_equal(rank(votes, predicted), 0)


def test_missing_labels_count_as_neighbours_without_a_vote():
    queries, bank, labels = make_data()
    labels[::3] = -1
    found = nearest(queries, bank, 20, mesh_of(8))
    votes = vote(found.cosine, labels[found.index], CLASSES, 0.07)
    cosine, index = numpy_nearest(queries, bank, 20)
    expected = numpy_vote(cosine, labels[index], 0.07)
    np.testing.assert_allclose(votes, expected / np.exp(cosine / 0.07).sum(1, keepdims=True),
                               atol=1e-5)  # fmt: skip
    assert (votes.sum(1) < 1).any()


def test_ranks_against_a_stable_sort():
    votes = np.random.default_rng(0).integers(1, 4, (200, 9)).astype(float)  # many are equal
    truth = np.random.default_rng(1).integers(0, 9, 200)
    order = np.argsort(-votes, axis=1, kind="stable")
    np.testing.assert_array_equal(rank(votes, truth), (order == truth[:, None]).argmax(1))


def test_low_temperature_is_the_nearest_neighbour():
    """exp(cosine / 0.001) overflows float64; the shares do not."""
    queries, bank, labels = make_data(scale=0.3)
    found = nearest(queries, bank, 20, mesh_of(1))
    votes = vote(found.cosine, labels[found.index], CLASSES, 0.001)
    assert np.isfinite(votes).all()
    np.testing.assert_array_equal(votes.argmax(1), labels[numpy_nearest(queries, bank, 1)[1][:, 0]])
