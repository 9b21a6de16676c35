"""The kNN vote against float64 NumPy and scikit-learn's brute force.

Tolerance 1e-5 on shares of the vote: a float32 cosine is off by 1e-7, which a temperature of
0.07 multiplies by 14 in the exponent.
"""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from moco_jax.ops.knn import knn_predict

pytestmark = pytest.mark.parity
M, N, C, CLASSES = 50, 211, 16, 7


def make_data(scale=2.0):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(CLASSES, C))
    labels = rng.integers(0, CLASSES, M + N)
    labels[M : M + CLASSES] = np.arange(CLASSES)  # scikit-learn knows the classes that it saw
    features = (centers[labels] + scale * rng.normal(size=(M + N, C))).astype(np.float32)
    return features[:M], features[M:], labels[M:]


def numpy_vote(queries, bank, labels, k, temperature, exclude_self=False):
    queries, bank = (x.astype(np.float64) for x in (queries, bank))
    votes = np.zeros((len(queries), CLASSES))
    for i, q in enumerate(queries):
        cosine = bank @ q / (np.linalg.norm(bank, axis=1) * np.linalg.norm(q))
        if exclude_self:
            cosine[i] = -np.inf
        for j in np.argsort(-cosine, kind="stable")[:k]:
            if labels[j] >= 0:
                votes[i, labels[j]] += np.exp(cosine[j] / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 20, 200, N])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_against_numpy_and_scikit_learn(k, temperature):
    queries, bank, labels = make_data()
    votes = knn_predict(queries, bank, labels, CLASSES, k, temperature)
    expected = numpy_vote(queries, bank, labels, k, temperature)
    np.testing.assert_allclose(votes, expected / expected.sum(1, keepdims=True), atol=1e-5)
    sklearn = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    sklearn.fit(bank.astype(np.float64), labels)
    np.testing.assert_allclose(votes, sklearn.predict_proba(queries.astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(votes.argmax(1), sklearn.predict(queries.astype(np.float64)))


@pytest.mark.parametrize("chunk", [1, 7, 25, 50, 1000])
def test_any_chunk(chunk):
    queries, bank, labels = make_data()
    votes = knn_predict(queries, bank, labels, CLASSES, 20, 0.07, chunk=chunk)
    expected = numpy_vote(queries, bank, labels, 20, 0.07)
    np.testing.assert_allclose(votes, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_leave_one_out():
    _, bank, labels = make_data()
    votes = knn_predict(bank, bank, labels, CLASSES, 20, 0.07, chunk=64, exclude_self=True)
    expected = numpy_vote(bank, bank, labels, 20, 0.07, exclude_self=True)
    np.testing.assert_allclose(votes, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_missing_labels_count_as_neighbours_without_a_vote():
    queries, bank, labels = make_data()
    labels[::3] = -1
    votes = np.asarray(knn_predict(queries, bank, labels, CLASSES, 20, 0.07))
    expected = numpy_vote(queries, bank, labels, 20, 0.07)
    np.testing.assert_array_equal(votes.argmax(1), expected.argmax(1))
    assert (votes.sum(1) < 1).any()
    np.testing.assert_allclose(
        votes / votes.sum(1, keepdims=True), expected / expected.sum(1, keepdims=True), atol=1e-5
    )


def test_low_temperature_is_the_nearest_neighbour():
    """exp(cosine / 0.005) overflows float32; the shares do not."""
    queries, bank, labels = make_data(scale=0.3)
    votes = knn_predict(queries, bank, labels, CLASSES, 20, 0.005)
    nearest = numpy_vote(queries, bank, labels, 1, 1.0).argmax(1)
    assert np.isfinite(votes).all()
    assert (votes.argmax(1) == nearest).mean() > 0.95
