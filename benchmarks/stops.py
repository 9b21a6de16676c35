"""What it costs a step to ask whether to stop: our line, and JAX's preemption service beside it.

python -m benchmarks.stops
"""

import timeit

import jax
from jax.experimental import multihost_utils

from launch.local import free_port
from moco_jax.cluster.lifeline import Line

CALLS = 100_000


def main() -> None:
    """Times both in a run of one process; neither sends anything while nobody wants to stop."""
    port = free_port()
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=1, process_id=0)
    line = Line(("127.0.0.1", port + 1), 1, 0, 60.0)
    line.exchange("here")
    for name, ask in (
        ("line", lambda: line.stops(1, "")),
        ("JAX", lambda: multihost_utils.reached_preemption_sync_point(1)),
    ):
        seconds = min(timeit.repeat(ask, number=CALLS, repeat=5)) / CALLS
        print(f"{name}: {seconds * 1e6:.2f} us a step")
    line.close()


if __name__ == "__main__":
    main()
