"""What is used of JAX's private names, all of it here; tried with jax 0.10.2 and 0.11.2.

ClusterEnv: JAX offers the detection of clusters only inside of its `initialize`, which aborts when
a process is missing.
"""

from jax._src.clusters import ClusterEnv

__all__ = ["ClusterEnv"]
