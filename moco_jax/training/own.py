"""What a protocol of an upper floor brings to the loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from moco_jax.data.prefetch import Prefetcher
from moco_jax.evals.evaluation import Evaluation


class Own(NamedTuple):
    """What a protocol of an upper floor brings itself, in place of what is usual.

    Attributes:
      batches: position -> training batches from there on, on the mesh.
      entries: shapes of such a batch, over all hosts.
      renamed: what an array of a file's backbone is called in the state.
      taken: how the names of those arrays of the state begin that a file gives.
      evaluation: the one that has a meaning for it.
      canvases: height and width of a batch's images, where batches may have several.
    """

    batches: Callable[[int], Prefetcher]
    entries: dict[str, jax.ShapeDtypeStruct]
    renamed: Callable[[str], str]
    taken: tuple[str, ...]
    evaluation: Evaluation
    canvases: tuple[tuple[int, int], ...] = ()
