"""Momentum-contrast learning of image representations in JAX: MoCo v1, v2 and v3."""

__version__ = "0.1.0"
