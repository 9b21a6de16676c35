"""TensorBoard's files, written by the caller's own thread: what fails shows at once.

tensorboardX's SummaryWriter has a thread that dies when a disk is full, and a queue that then
blocks its caller for ever; its messages are good.
"""

import socket
import struct
import time
from typing import Any

from moco_jax.bucket import BucketPath, Growing, Place


class Board:
    """One file of events."""

    def __init__(self, directory: Place, position: int):
        """Begins a file; TensorBoard forgets what others of the run say of later steps.

        Args:
          directory: where TensorBoard looks.
          position: the step that the run starts or resumes at.

        Raises:
          OSError: it cannot be written.
        """
        from tensorboardX.proto.event_pb2 import SessionLog  # 1 s to import

        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        path = directory / name
        bucket = isinstance(path, BucketPath)
        self._file = Growing(path) if bucket else path.open("ab", buffering=0)
        self._add(file_version="brain.Event:2")
        self._add(step=position + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, scalars: dict[str, float], step: int) -> None:
        """Writes numbers by name.

        Args:
          scalars: by name.
          step: at which they hold.

        Raises:
          OSError: it cannot be written.
        """
        from tensorboardX.summary import scalar

        for name, value in scalars.items():
            self._add(step=step, summary=scalar(name, value))
        self._file.flush()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def _add(self, **content: Any) -> None:
        """A record: length, data, and a checksum of each (TensorFlow's TFRecord)."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        data = Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(data))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, data))
        record = length + next(sums) + data + next(sums)
        if self._file.write(record) < len(record):
            raise OSError("the disk is full: a record was cut short")
