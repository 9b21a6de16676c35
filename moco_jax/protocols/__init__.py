"""Evaluation protocols that train on labels, in the one loop."""
