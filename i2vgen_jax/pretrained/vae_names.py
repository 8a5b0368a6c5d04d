"""Tensor names of diffusers' AutoencoderKL."""

from i2vgen_jax.pretrained import tensors


def name_of(path: str) -> str:
  """Names the tensor of a parameter of `models.vae.AutoencoderKL`, whose modules bear its names."""
  return tensors.torch_name(path)
