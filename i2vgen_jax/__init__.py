"""I2VGen-XL training, sampling and export in JAX/Flax.

Commands, each read top to bottom: train, sample, evaluate, export. What they share: components
(a config's networks), streams (its batches), encoders (frozen networks), train_step, generation,
validation, optimizer, checkpoint, metrics. Below them, knowing nothing of each other: diffusion,
models, parallel, pretrained.
"""
