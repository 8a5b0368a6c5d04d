"""FreeU (Si et al. 2023, arXiv:2309.11497): at some decoder layers, a stronger trunk and smoother
skips, without parameters. VGen's refinement has it built in.

Dimension key: B batch, F frames, H W height and width, C channels.
"""

import jax
import jax.numpy as jnp
import numpy as np


def reweigh(
  x_BFHWC: jax.Array, skip_BFHWC: jax.Array, trunk_gain: float, skip_gain: float
) -> tuple[jax.Array, jax.Array]:
  """Multiplies half of the trunk's channels, and the lowest frequencies of the skip.

  Args:
    x_BFHWC: the trunk; its first half of the channels gets the gain.
    skip_BFHWC: the skip, as large, with any number of channels.
    trunk_gain, skip_gain: 1 changes nothing.

  Returns:
    Both, in their own dtypes.
  """
  channels = x_BFHWC.shape[-1]
  gains_C = np.where(np.arange(channels) < channels // 2, trunk_gain, 1).astype(x_BFHWC.dtype)
  low_BFHWC = lowest_frequencies(skip_BFHWC.astype(jnp.float32))
  return x_BFHWC * gains_C, (skip_BFHWC + (skip_gain - 1) * low_BFHWC).astype(skip_BFHWC.dtype)


def lowest_frequencies(x_BFHWC: jax.Array) -> jax.Array:
  """Returns the real part of what frequencies 0 and -1 along height and width hold.

  The square of two by two in the middle of a shifted spectrum, which is not symmetric: VGen's.
  Written as matrix products, as TPUs have no fast Fourier transform to speak of.
  """
  rows, columns = (_projection(size) for size in x_BFHWC.shape[2:4])
  project = lambda part: jnp.einsum(  # noqa: E731
    'hi,wj,bfijc->bfhwc', getattr(rows, part), getattr(columns, part), x_BFHWC
  )
  return project('real') - project('imag')


def _projection(size: int) -> np.ndarray:
  """complex64 (size, size): a signal to the sum of its components of frequencies 0 and -1."""
  frequencies_K = np.unique([0, size - 1])
  waves_SK = np.exp(2j * np.pi * np.outer(np.arange(size), frequencies_K) / size)
  return (waves_SK @ waves_SK.conj().T / size).astype(np.complex64)
