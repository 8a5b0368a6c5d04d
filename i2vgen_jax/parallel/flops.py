"""How much a step computes, counted from its jaxpr, and how much a chip could compute.

XLA's own count leaves out Pallas kernels and what CPU libraries do, so it is not used.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

# Dense bfloat16 FLOP/s of one JAX device, by how its device_kind begins, from vendors' tables. A
# TPU7x chip is two devices.
PEAKS = {
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU7x': 2307e12 / 2,
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
}


def peak(device_kind: str) -> float | None:
  """FLOP/s of a device, or None if it is not in the table."""
  names = [name for name in PEAKS if device_kind.startswith(name)]
  return PEAKS[max(names, key=len)] if names else None


def train_step(session: Any, bucket: Any) -> int:
  """FLOPs by which MFU is defined: three times the U-Net's forward pass, for a whole batch.

  The frozen encoders and what is computed twice to save memory do not count.

  Args:
    session: a session.Session.
    bucket: a buckets.Bucket.
  """
  inputs = session.unet_inputs(bucket.frames, bucket.height, bucket.width)
  params = jax.eval_shape(session.unet.init, jax.random.key(0), *inputs)
  return 3 * bucket.batch_size * count(session.unet.apply, params, *inputs)


def count(function: Callable[..., Any], *arguments: Any) -> int:
  """FLOPs of the matrix products and convolutions of one call; arguments may be shapes."""
  return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> int:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
  name, parameters = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = parameters['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[dim] for dim in contracted)
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval
    outputs = kernel.shape[parameters['dimension_numbers'].rhs_spec[0]]
    return 2 * equation.outvars[0].aval.size * kernel.size // outputs
  inner = [
    _of_jaxpr(getattr(sub, 'jaxpr', sub))
    for value in parameters.values()
    for sub in (value if isinstance(value, tuple | list) else (value,))
    if hasattr(getattr(sub, 'jaxpr', sub), 'eqns')
  ]
  if name == 'cond':
    return max(inner)
  return sum(inner) * parameters.get('length', 1) if name == 'scan' else sum(inner)
