"""Every test runs on eight simulated CPU devices, with strict dtype and rank promotion."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0"  # the tests mostly compile
)

# Lists of folders that tests make are no business of the user's cache.
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parent.parent / ".cache")

import jax

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(CACHE))
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
