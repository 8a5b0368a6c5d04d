"""Convolutions of frames and over frames, zero-padded, in the form fastest on the devices at hand.

  on TPU           XLA's; over frames, of pixels as the batch
  on CPU, with     one product of all patches, side by side, with the kernel: XLA:CPU takes up to 60
  few pixels       times as long where the image is smaller than the kernel (docs/performance.md)
  all else         XLA's; over frames, of frames and pixels as an image

The devices are those of the mesh in context (parallel/mesh.py: within); without one, a CPU.
Dimension key: N images, H W height and width, B batch, F frames, S = H*W, K positions of the
kernel, I O input and output channels.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from i2vgen_jax.models import kernels


def convolve(x_NHWI: jax.Array, kernel_HWIO: jax.Array, stride: int = 1) -> jax.Array:
  """(N, H, W, I) -> (N, ceil(H/stride), ceil(W/stride), O); kernels are 1 or 3 high and wide.

  Args:
    x_NHWI: images.
    kernel_HWIO: kernel, 1 or 3 high and wide.
    stride: step in pixels along height and width.
  """
  few = math.prod(x_NHWI.shape[:3]) <= stride**2 * kernel_HWIO.shape[-1]
  form = of_patches if few and kernels.platform() == 'cpu' else of_images
  return form(x_NHWI, kernel_HWIO, stride)


def convolve_over_frames(x_BFSI: jax.Array, kernel_3IO: jax.Array) -> jax.Array:
  """(B, F, S, I) -> (B, F, S, O)."""
  if kernels.platform() == 'tpu':
    return of_pixels(x_BFSI, kernel_3IO)
  return convolve(x_BFSI, kernel_3IO[:, None])


def of_images(x_NHWI: jax.Array, kernel_HWIO: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves by XLA.

  Args:
    x_NHWI: images.
    kernel_HWIO: kernel of odd height and width.
    stride: step in pixels along height and width.
  """
  return jax.lax.conv_general_dilated(
    x_NHWI,
    kernel_HWIO,
    (stride, stride),
    [(size // 2, size // 2) for size in kernel_HWIO.shape[:2]],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def of_patches(x_NHWI: jax.Array, kernel_HWIO: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves by one matrix product. Patches are no larger than the kernel if pixels are at most O.

  Args:
    x_NHWI: images.
    kernel_HWIO: kernel of odd height and width.
    stride: step in pixels along height and width.
  """
  (height, width), sizes = x_NHWI.shape[1:3], kernel_HWIO.shape[:2]
  margins = [(size // 2, size // 2) for size in sizes]
  x_NHWI = jnp.pad(x_NHWI, ((0, 0), *margins, (0, 0)))
  patches_NHWKI = jnp.stack(
    [
      x_NHWI[:, top : top + height : stride, left : left + width : stride]
      for top, left in itertools.product(*map(range, sizes))
    ],
    axis=-2,
  )
  return jnp.tensordot(patches_NHWKI, kernel_HWIO.reshape(-1, *kernel_HWIO.shape[2:]), 2)


def of_pixels(x_BFSI: jax.Array, kernel_3IO: jax.Array) -> jax.Array:
  """Convolves S images of B rows and F columns by XLA, with a kernel 1 high and 3 wide.

  A video lies so in a TPU's memory: any other form needs a copy, or shifts that cost three times as
  much (docs/performance.md).
  """
  dims = jax.lax.ConvDimensionNumbers((2, 3, 0, 1), (3, 2, 0, 1), (2, 3, 0, 1))
  return jax.lax.conv_general_dilated(
    x_BFSI, kernel_3IO[None], (1, 1), [(0, 0), (1, 1)], dimension_numbers=dims
  )
