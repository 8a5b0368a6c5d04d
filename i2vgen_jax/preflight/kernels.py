"""Each Pallas kernel and its gradient, against XLA on the same device."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.models import kernels
from i2vgen_jax.preflight import report

# Largest difference over largest value that is rounding: products of bfloat16 have 8 bits.
MOST = {'bfloat16': 0.03, 'float32': 2e-4}
# (name, over, shape of queries, shape of keys): level 1 of base, and smaller than any where the
# kernels are interpreted.
ON_TPU = (
  ('attention of pixels', 'pixels', (1, 2, 1792, 320), (1, 2, 1792, 320)),
  ('attention of frames', 'frames', (1, 16, 448, 320), (1, 16, 448, 320)),
  ('attention of the context', 'context', (1, 2, 1792, 320), (1, 160, 320)),
  ('splash attention', 'pixels', (1, 1, 3600, 320), (1, 1, 3600, 320)),
)
INTERPRETED = (
  ('attention of pixels', 'pixels', (1, 1, 64, 64), (1, 1, 64, 64)),
  ('attention of frames', 'frames', (1, 4, 8, 64), (1, 4, 8, 64)),
  ('attention of the context', 'context', (1, 1, 64, 64), (1, 64, 64)),
)
HEAD_DIM = 64


def check() -> Iterator[report.Line]:
  """A line for each kernel: the largest difference of its output and of its three gradients. On
  CPU the kernels are interpreted; on GPU there are none."""
  platform = jax.default_backend()
  if platform not in ('tpu', 'cpu'):
    yield report.Line('kernels', None, f'none of ours on {platform}')
    return
  interpret = platform == 'cpu'
  dtype = jnp.float32 if interpret else jnp.bfloat16
  for name, over, queries, keys in INTERPRETED if interpret else ON_TPU:
    function = kernels.splash if name.startswith('splash') else kernels.pallas
    ours = functools.partial(function, over, head_dim=HEAD_DIM, interpret=interpret)
    plain = functools.partial(kernels.plain, over, num_heads=queries[-1] // HEAD_DIM)
    worst = difference(ours, plain, (queries, keys, keys), dtype)
    worst = float(report.of_all_hosts(worst).max())
    most = MOST[jnp.dtype(dtype).name]
    text = f'differs from XLA by {worst:.1e} of the largest value, output and gradients'
    if not worst <= most:
      text += f', more than {most:.0e}: report it, with libtpu and chip'
    yield report.Line(name, worst <= most, text, worst, most)


def difference(
  ours: Callable[..., Any], plain: Callable[..., Any], shapes: tuple, dtype: Any
) -> float:
  """Largest of output and gradients: largest difference over the largest value.

  Args:
    ours: function of queries, keys and values.
    plain: what it should equal.
    shapes: of the three.
    dtype: of them.
  """
  rng = np.random.default_rng(0)
  arguments = tuple(jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
  weights = jnp.asarray(rng.standard_normal(shapes[0]), jnp.float32)

  def results(function: Callable[..., Any]) -> list[np.ndarray]:
    @jax.jit
    def both(*arguments):
      def scalar(*arguments):
        output = function(*arguments)
        return jnp.sum(output.astype(jnp.float32) * weights), output

      gradients, output = jax.grad(scalar, (0, 1, 2), has_aux=True)(*arguments)
      return output, *gradients

    return [np.asarray(x, np.float32) for x in both(*arguments)]

  pairs = zip(results(ours), results(plain), strict=True)
  # A value that is not finite differs from all.
  worst = [float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs]
  return float('inf') if np.isnan(worst).any() else max(worst)
