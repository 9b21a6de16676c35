"""The one loop, its pure step, and everything that a config stands for."""
