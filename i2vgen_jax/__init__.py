"""I2VGen-XL training, sampling and export in JAX/Flax.

Commands, each read top to bottom: `train`, `finetune`, `status`, `replay`, `sample`, `studio`,
`evaluate`, `ablate`, `export`, `load`, `precompute`, `score`. Their parts: `training`, `sampling`,
`evaluation`, `plan`.
What they share: `session` (a config's networks, mesh and frozen weights), `conditions` (what the
U-Net is conditioned on). Below them, knowing nothing of each other: `diffusion`, `models`,
`parallel`, `process`; `stored`, what a run keeps; and `pretrained`, the frozen networks and names
of PyTorch weights' tensors.

docs/architecture.md draws a batch's way through them.
"""
