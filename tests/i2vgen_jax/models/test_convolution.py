"""models/convolution.py: every form gives the same, and each is taken where it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from i2vgen_jax.models import convolution


def value_and_grads(convolve, x, kernel, weights):
  y, pull = jax.vjp(convolve, x, kernel)
  return y, *pull(weights)


def normal(*shape):
  rng = np.random.default_rng(sum(shape))
  return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def assert_the_same(found, expected):
  """Sums of some dozens of standard normal terms, in different orders."""
  for one, other in zip(found, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('stride', (1, 2))
@pytest.mark.parametrize('kernel', ((3, 3), (3, 1), (1, 1)))
@pytest.mark.parametrize('size', ((1, 1), (2, 3), (5, 4)))
def test_images_are_convolved_the_same_by_patches(size, kernel, stride):
  height, width = (-(-length // stride) for length in size)
  given = normal(2, *size, 4), normal(*kernel, 4, 6), normal(2, height, width, 6)
  found, expected = (
    value_and_grads(lambda x, kernel, form=form: form(x, kernel, stride), *given)
    for form in (convolution.of_patches, convolution.of_images)
  )
  assert_the_same(found, expected)


def test_frames_are_convolved_the_same_on_every_platform():
  given = normal(2, 5, 6, 4), normal(3, 4, 6), normal(2, 5, 6, 6)
  as_images = value_and_grads(lambda x, k: convolution.of_images(x, k[:, None]), *given)
  as_patches = value_and_grads(lambda x, k: convolution.of_patches(x, k[:, None]), *given)
  assert_the_same(value_and_grads(convolution.of_pixels, *given), as_images)
  assert_the_same(as_patches, as_images)


@pytest.mark.parametrize('platform', ('cpu', 'gpu', 'tpu'))
@pytest.mark.parametrize('channels, stride', ((96, 1), (95, 1), (24, 2), (23, 2)))
def test_patches_are_taken_on_a_cpu_where_they_are_no_larger_than_the_kernel(
  platform, channels, stride, monkeypatch
):
  monkeypatch.setattr(convolution.kernels, 'platform', lambda: platform)
  x_NHWI, kernel_HWIO = normal(4, 4, 6, 1), normal(3, 3, 1, channels)
  jaxpr = str(
    jax.make_jaxpr(lambda *given: convolution.convolve(*given, stride))(x_NHWI, kernel_HWIO)
  )
  patches = platform == 'cpu' and channels in (96, 24)
  assert ('dot_general' in jaxpr, 'conv_general_dilated' in jaxpr) == (patches, not patches)
