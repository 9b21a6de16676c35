"""Exact kNN of features and the vote by which it classifies (arXiv:1805.01978, section 3.4).

M queries, N images of the bank, C features, k neighbours, D devices. A device takes Q queries and
R rows of its part of the bank at a time, in blocks of b.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from moco_jax.errors import InputError
from moco_jax.ops.losses import l2_normalize

ROWS_BYTES = 2**28  # of the rows of the bank that a device takes at a time: R * C
SIMILARITY_BYTES = 2**27  # of their similarities to the queries that it takes: Q * R
QUERIES = 2**16  # for which the bank is read once

Best = tuple[jax.Array, jax.Array]


class Neighbours(NamedTuple):
    """The most similar images of the bank, the most similar one first.

    Attributes:
      cosine: float32 (M, k).
      index: int32 (M, k), rows of the bank.
    """

    cosine: np.ndarray
    index: np.ndarray


def nearest(
    queries: np.ndarray,
    bank: np.ndarray,
    k: int,
    mesh: Mesh,
    *,
    exclude_self: bool = False,
    rows: int | None = None,
    chunk: int | None = None,
) -> Neighbours:
    """The k most similar images of the bank by cosine, for each query; exact, in float32.

    The bank stays on the host and may be a memory map. Each device goes through its own part of it,
    a consecutive one, keeps its k best, and sends these alone to the others. Of equally similar
    images the first in the bank comes first.

    Args:
      queries: (M, C) features of any length; the same on every process.
      bank: (N, C) features; the same on every process, which reads what its devices take.
      k: neighbours, at most N (N - 1 with exclude_self).
      mesh: its devices share the bank.
      exclude_self: the queries are the bank, and no image is its own neighbour.
      rows: R, of the bank that a device takes at a time; None: ROWS_BYTES of them.
      chunk: Q, queries that it compares with them at a time; None: SIMILARITY_BYTES of cosines.

    Raises:
      InputError: k, rows or chunk out of range, shapes that do not fit each other, or features
        that are not finite.
    """
    _check(queries, bank, k, exclude_self, rows, chunk)
    most = min(len(queries), QUERIES)
    plan = _plan(most, len(bank), bank.shape[1], mesh, rows, chunk)
    parts = []
    for start in range(0, len(queries), QUERIES):
        part = np.asarray(queries[start : start + QUERIES], np.float32)
        own = np.arange(start, start + len(part)) if exclude_self else np.full(len(part), -1)
        parts.append(_search(part, own.astype(np.int32), bank, k, mesh, plan))
    found = Neighbours(*(np.concatenate(column) for column in zip(*parts)))
    if not np.isfinite(found.cosine).all():
        raise InputError("there are features that are not finite")
    return found


def device_bytes(
    m: int,
    n: int,
    c: int,
    k: int,
    mesh: Mesh,
    *,
    rows: int | None = None,
    chunk: int | None = None,
) -> int:
    """What `nearest` needs on each device, as compiled for it: M, N and C beside its arguments."""
    plan = _plan(min(m, QUERIES), n, c, mesh, rows, chunk)
    start, step, _ = _programs(mesh, n, plan.steps, plan.rows, k)
    queries = jax.ShapeDtypeStruct((plan.chunks, plan.chunk, c), np.float32)
    own = jax.ShapeDtypeStruct(queries.shape[:2], np.int32)
    part = jax.ShapeDtypeStruct((mesh.size * plan.rows, c), np.float32)
    best = jax.eval_shape(start, queries)[1]
    program = step.lower(best, queries, own, part, jax.ShapeDtypeStruct((), np.int32))
    memory = program.compile().memory_analysis()
    # The next rows of the bank are sent while these are computed on.
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes + 4 * c * plan.rows


def vote(
    cosine: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float
) -> np.ndarray:
    """Vote of the neighbours, each weighted by exp(cosine / temperature).

    A few numbers for each query, added on the host in float64: from the nearest on, so that the
    same neighbours always give the same bits.

    Args:
      cosine: (M, k), the nearest first.
      labels: (M, k) of the neighbours; those outside [0, num_classes), such as -1, have no vote.
      num_classes: of the labels.
      temperature: of the weights; 0.07 is usual.

    Returns:
      (M, num_classes) float64: each class's share of the vote. Rows sum to 1 where all neighbours
      have labels.

    Raises:
      InputError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise InputError(f"temperature={temperature} must be above 0")
    # Shares instead of exp(cosine / temperature) itself, which can overflow.
    cosine = cosine.astype(np.float64)
    weight = np.exp((cosine - cosine[:, :1]) / temperature)
    weight /= weight.sum(1, keepdims=True)
    known = (labels >= 0) & (labels < num_classes)
    cell = np.arange(len(labels))[:, None] * num_classes + labels
    votes = np.bincount(cell[known], weight[known], len(labels) * num_classes)
    return votes.reshape(len(labels), num_classes)


def rank(votes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How many classes come before the true one; of equal votes, the lowest class first.

    Args:
      votes: (M, classes).
      truth: (M,) labels.

    Returns:
      int (M,); the number of classes, where the true one has no vote at all.
    """
    classes = votes.shape[1]
    label = np.clip(truth, 0, classes - 1)[:, None]
    own = np.take_along_axis(votes, label, axis=1)
    before = ((votes > own) | ((votes == own) & (np.arange(classes) < label))).sum(1)
    return np.where((truth == label[:, 0]) & (own[:, 0] > 0), before, classes)


def top_k(x: jax.Array, k: int) -> Best:
    """`jax.lax.top_k` of wide rows in less time: the k largest of (Q, R), and where they are.

    The k largest lie in the k blocks whose maxima are largest; only these are sorted. Blocks are
    consecutive, so that of equal values the first comes first, as in `jax.lax.top_k`.
    """
    width = x.shape[1]
    block = 2 ** max(0, round(math.log2(math.sqrt(width / k))))
    if block < 4:  # hardly anything would be left out
        return jax.lax.top_k(x, k)
    x = jnp.pad(x, ((0, 0), (0, -width % block)), constant_values=-jnp.inf)
    x = x.reshape(len(x), -1, block)
    _, blocks = jax.lax.top_k(jnp.max(x, axis=2), k)
    blocks = jnp.sort(blocks, axis=1)
    candidates = jnp.take_along_axis(x, blocks[:, :, None], axis=1).reshape(len(x), -1)
    values, at = jax.lax.top_k(candidates, k)
    return values, jnp.take_along_axis(blocks, at // block, axis=1) * block + at % block


def _check(
    queries: np.ndarray,
    bank: np.ndarray,
    k: int,
    exclude_self: bool,
    rows: int | None,
    chunk: int | None,
) -> None:
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise InputError(f"queries {queries.shape} and bank {bank.shape}: expected (M, C), (N, C)")
    if exclude_self and len(queries) != len(bank):
        raise InputError(f"exclude_self: {len(queries)} queries are not the bank of {len(bank)}")
    neighbours = len(bank) - exclude_self
    if not 1 <= k <= neighbours:
        raise InputError(f"k={k} must be from 1 to the {neighbours} neighbours that there are")
    if not len(queries):
        raise InputError("there are no queries")
    for name, value in (("rows", rows), ("chunk", chunk)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value} must be at least 1")


class _Plan(NamedTuple):
    """A search in steps: `rows` of the bank on each device, `chunks` of `chunk` queries in turn."""

    steps: int
    rows: int
    chunks: int
    chunk: int


def _plan(m: int, n: int, c: int, mesh: Mesh, rows: int | None, chunk: int | None) -> _Plan:
    def evenly(count: int, most: int) -> tuple[int, int]:
        parts = -(-count // most)
        return parts, -(-count // parts)

    steps, rows = evenly(-(-n // mesh.size), rows or max(1, ROWS_BYTES // (4 * c)))
    return _Plan(steps, rows, *evenly(m, chunk or max(1, SIMILARITY_BYTES // (4 * rows))))


def _search(
    queries: np.ndarray, own: np.ndarray, bank: np.ndarray, k: int, mesh: Mesh, plan: _Plan
) -> Neighbours:
    """`nearest` for queries that fit a device; `own` is each query's row of the bank, or -1."""
    start, step, finish = _programs(mesh, len(bank), plan.steps, plan.rows, k)
    shape, pad = plan[2:], plan.chunks * plan.chunk - len(queries)
    q = np.pad(queries, ((0, pad), (0, 0))).reshape(*shape, -1)
    own = np.pad(own, (0, pad), constant_values=-1).reshape(shape)
    whole = NamedSharding(mesh, P())
    q, own = (jax.make_array_from_callback(x.shape, whole, lambda at, x=x: x[at]) for x in (q, own))
    q, best = start(q)
    part = _put(bank, 0, plan, mesh)
    for number in range(plan.steps):
        best = step(best, q, own, part, np.int32(number))
        if number + 1 < plan.steps:  # sent while the devices compute; they hold two at most
            part = _put(bank, number + 1, plan, mesh)
            jax.block_until_ready(best)
    cosine, index = finish(best)
    return Neighbours(np.asarray(cosine)[: len(queries)], np.asarray(index)[: len(queries)])


def _put(bank: np.ndarray, number: int, plan: _Plan, mesh: Mesh) -> jax.Array:
    """The rows that each device takes in a step, (D * R, C); zeros past the end of the bank."""
    steps, rows = plan[:2]

    def read(at: tuple[slice, ...]) -> np.ndarray:
        device = (at[0].start or 0) // rows
        first = (device * steps + number) * rows
        part = np.asarray(bank[first : first + rows], np.float32)
        return np.pad(part, ((0, rows - len(part)), (0, 0))) if len(part) < rows else part

    shape = (mesh.size * rows, bank.shape[1])
    return jax.make_array_from_callback(shape, NamedSharding(mesh, P(mesh.axis_names)), read)


@lru_cache(maxsize=8)
def _programs(mesh: Mesh, n: int, steps: int, rows: int, k: int) -> tuple:
    """The three programs of a search: before, for each part of the bank, and after."""
    whole, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(mesh.axis_names))

    @partial(jax.jit, out_shardings=(whole, (split, split)))
    def start(queries: jax.Array) -> tuple[jax.Array, Best]:
        shape = (mesh.size, *queries.shape[:2], k)
        return l2_normalize(queries), (jnp.full(shape, -jnp.inf), jnp.zeros(shape, jnp.int32))

    @partial(jax.jit, donate_argnums=0)
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=((P(mesh.axis_names), P(mesh.axis_names)), P(), P(), P(mesh.axis_names), P()),
        out_specs=(P(mesh.axis_names), P(mesh.axis_names)),
    )
    def step(
        best: Best, queries: jax.Array, own: jax.Array, part: jax.Array, number: jax.Array
    ) -> Best:
        index = (jax.lax.axis_index(mesh.axis_names) * steps + number) * rows + jnp.arange(rows)
        part = l2_normalize(part)

        def merge(xs: tuple[jax.Array, ...]) -> Best:
            cosine, found, q, own = xs
            new = jnp.einsum("qc,rc->qr", q, part, precision="highest")
            valid = (index[None] < n) & (index[None] != own[:, None])
            new, at = top_k(jnp.where(valid, new, -jnp.inf), min(k, rows))
            # What was found before stands first: of equals it is the first in the bank.
            cosine, pick = jax.lax.top_k(jnp.concatenate([cosine, new], 1), k)
            found = jnp.concatenate([found, index[at]], 1)
            return cosine, jnp.take_along_axis(found, pick, axis=1)

        merged = jax.lax.map(merge, (best[0][0], best[1][0], queries, own))
        return tuple(x[None] for x in merged)

    @partial(jax.jit, out_shardings=whole)
    def finish(best: Best) -> Best:
        queries = best[0].shape[1] * best[0].shape[2]
        # (D, chunks, Q, k) to (M, D * k): the devices' parts in the order of the bank.
        cosine, index = (jnp.moveaxis(x, 0, 2).reshape(queries, -1) for x in best)
        cosine, pick = jax.lax.top_k(cosine, k)
        return cosine, jnp.take_along_axis(index, pick, axis=1)

    return start, step, finish
