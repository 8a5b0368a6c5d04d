"""Diffusion mathematics: jax and numpy only; knows no model, data or mesh."""
