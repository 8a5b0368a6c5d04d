"""Scores by networks, with weights that the user supplies; CLIP itself comes from i2vgen_jax."""
