"""Which image comes onto which canvas, and batches of images of one canvas each.

N images, N_k of them on canvas k, B images of a batch
"""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np

from moco_jax.data import pipeline
from moco_jax.data.loader import Rows
from moco_jax.detection.framing import Framing, best_canvas
from moco_jax.detection.image_files import ImageSet
from moco_jax.errors import InputError


class Buckets(NamedTuple):
    """The images of a set by canvas.

    Attributes:
      canvas: which one each image comes onto, int64 (N,).
      members: of each canvas its images in order, int64 (N_k,).
    """

    canvas: np.ndarray
    members: tuple[np.ndarray, ...]

    @classmethod
    def one(cls, count: int) -> Self:
        """All images on the same canvas.

        Args:
          count: N.
        """
        return cls(np.zeros(count, np.int64), (np.arange(count),))

    @classmethod
    def of(cls, source: ImageSet, framing: Framing) -> Self:
        """The images of a set by the canvas that leaves them largest.

        Args:
          source: N images.
          framing: with the canvases.
        """
        if not framing.others:
            return cls.one(len(source))
        shapes = ((image.height, image.width) for image in source.images)
        canvas = np.array([best_canvas(framing, *shape) for shape in shapes], np.int64)
        numbers = range(len(framing.canvases))
        return cls(canvas, tuple(np.flatnonzero(canvas == k) for k in numbers))

    def checked(self, framing: Framing, batch_size: int) -> Self:
        """Itself, where each of several canvases has images for a batch.

        Args:
          framing: with the canvases.
          batch_size: B.

        Raises:
          InputError: one has fewer.
        """
        few = [k for k, own in enumerate(self.members) if len(own) < batch_size]
        if len(self.members) > 1 and few:
            found = {size: len(own) for size, own in zip(framing.canvases, self.members)}
            raise InputError(
                f"canvas {framing.canvases[few[0]]} fits {len(self.members[few[0]])} images best, "
                f"fewer than a batch of {batch_size}; expected detection.canvas and "
                f"more_canvases that more images have need of: {found}"
            )
        return self

    def batches_before(self, step: int) -> tuple[int, ...]:
        """How many of the first `step` batches each canvas has: its share of the images.

        The first takes the whole part of its share, the second that of what is left, and so on, so
        that each step adds one to just one of them.
        """
        out, total = [], len(self.canvas)
        for own in self.members:
            out.append(step * len(own) // total if total else 0)
            step, total = step - out[-1], total - len(own)
        return tuple(out)

    def rows(self, seed: int, step: int, batch_size: int, mine: slice) -> Iterator[Rows]:
        """A host's rows of each training batch from a step on; each epoch is one of its canvas.

        Batch t of canvas k has samples t B to (t + 1) B of its images in the order of
        `pipeline.sample_order(seed, epoch, N_k)`, one epoch of N_k after another.

        Args:
          seed: of the run.
          step: the first.
          batch_size: B.
          mine: of the batch.
        """
        counts = self.batches_before(step)
        streams = [
            pipeline.train_rows(len(own), seed, count, batch_size, mine)
            for own, count in zip(self.members, counts)
        ]
        while True:
            before, step = counts, step + 1
            counts = self.batches_before(step)
            (k,) = np.flatnonzero(np.subtract(counts, before))
            index, epoch = next(streams[k])
            yield Rows(self.members[k][index], epoch)

    def eval_rows(self, batch_size: int, mine: slice) -> Iterator[Rows]:
        """A host's rows of the batches that have all images once, canvas by canvas; -1 is padding.

        In place of the epoch stands the number of the canvas.

        Args:
          batch_size: B.
          mine: of the batch.
        """
        for k, own in enumerate(self.members):
            for rows in pipeline.eval_rows(own, batch_size, mine):
                yield Rows(rows.index, np.full_like(rows.index, k))

    def after(self, index: int) -> Iterator[int]:
        """An image and those that may stand in for it: the next of its canvas, round and round."""
        own = self.members[self.canvas[index]]
        at = int(np.searchsorted(own, index))
        while True:
            yield int(own[at])
            at = (at + 1) % len(own)
