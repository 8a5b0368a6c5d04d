"""I2VGen-XL training, sampling and export in JAX/Flax."""
