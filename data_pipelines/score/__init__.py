"""Scores that need a network: CLIP on the accelerator, with weights that the user supplies."""
