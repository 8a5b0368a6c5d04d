"""What one device holds while a stage samples a video: weights, and the most that comes and goes.

A cascade has one stage at a time on its devices, so that each is planned by itself.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import frozen as frozen_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import chips


def held_bytes(
  session: session_lib.Session, bucket: buckets_lib.Bucket, device: chips.Device
) -> dict[str, int]:
  """Bytes by kind; the two that come and go are estimates, and never there together.

  Args:
    session: of the run, on a mesh of one device.
    bucket: shape of the video.
    device: that samples.
  """
  mesh = chips.abstract_mesh(dict.fromkeys(mesh_lib.AXES, 1), device)
  params = jax.eval_shape(session.held, session.abstract_params())
  frozen = {
    name: jax.eval_shape(session.held, tree)
    for name, tree in frozen_lib.abstract(session.networks).items()
  }
  # Guidance computes both sides of a video at once.
  inputs = session.unet_inputs(bucket.frames, bucket.height, bucket.width, batch_size=2)
  denoise = lambda params, *inputs: session.unet.apply({'params': params}, *inputs)  # noqa: E731
  latents = jax.tree.map(lambda leaf: _rows(leaf, 1), inputs[0])
  return {
    'U-Net': num_bytes(params),
    'encoders and decoder': num_bytes(frozen),
    'a step of the sampler (estimate)': most_alive(mesh, denoise, params, *inputs),
    'decoding (estimate)': most_alive(mesh, session.autoencoder.decode_video, frozen, latents),
  }


def in_all(held: dict[str, int]) -> int:
  """The sum of what is held, of which only the larger one of steps and decoding."""
  *weights, step, decoding = held.values()
  return sum(weights) + max(step, decoding)


def lower_step(session: session_lib.Session, bucket: buckets_lib.Bucket) -> jax.stages.Lowered:
  """One step of guidance, lowered for the session's mesh of devices that may not be here."""
  whole = mesh_lib.replicated(session.mesh)
  place = functools.partial(
    jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
  )
  params = place(jax.eval_shape(session.held, session.abstract_params()))
  inputs = place(session.unet_inputs(bucket.frames, bucket.height, bucket.width, batch_size=2))
  denoise = lambda params, *inputs: session.unet.apply({'params': params}, *inputs)  # noqa: E731
  return jax.jit(mesh_lib.within(session.mesh, denoise)).lower(params, *inputs)


def most_alive(
  mesh: jax.sharding.AbstractMesh, function: Callable[..., Any], *arguments: Any
) -> int:
  """The most bytes that one call holds at a time, besides its arguments.

  Every array of the jaxpr counts from the operation that makes it to the last one that reads it:
  more than XLA holds, which makes some of them only in passing.

  Args:
    mesh: of one device.
    function: to call.
    arguments: its arguments; shapes will do.
  """
  return _most_alive(jax.make_jaxpr(mesh_lib.within(mesh, function))(*arguments).jaxpr)


def _most_alive(jaxpr: Any) -> int:
  last = {}
  for index, equation in enumerate(jaxpr.eqns):
    for variable in equation.invars:
      if not hasattr(variable, 'val'):  # A literal is no variable.
        last[variable] = index
  last |= {variable: len(jaxpr.eqns) for variable in jaxpr.outvars if not hasattr(variable, 'val')}
  alive, most, made = 0, 0, {}
  for index, equation in enumerate(jaxpr.eqns):
    for variable in equation.outvars:
      made[variable] = _size(variable.aval)
      alive += made[variable]
    # Kernels work in memory of their own.
    inside = () if equation.primitive.name == 'pallas_call' else _inner(equation.params)
    most = max(most, alive + max(map(_most_alive, inside), default=0))
    done = {v for v in (*equation.invars, *equation.outvars) if not hasattr(v, 'val')}
    for variable in done:
      if variable in made and last.get(variable, index) == index:
        alive -= made.pop(variable)
  return most


def _inner(params: dict[str, Any]) -> list[Any]:
  """The jaxprs that an equation runs."""
  leaves = jax.tree.leaves(list(params.values()), is_leaf=lambda x: hasattr(x, 'jaxpr'))
  found = [getattr(leaf, 'jaxpr', leaf) for leaf in leaves]
  return [leaf for leaf in found if hasattr(leaf, 'eqns')]


def _size(aval: Any) -> int:
  if not (jnp.issubdtype(aval.dtype, jnp.number) or aval.dtype == jnp.bool_):
    return 0  # Keys.
  return math.prod(aval.shape) * aval.dtype.itemsize


def num_bytes(tree: Any) -> int:
  """Bytes of a tree of shapes."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _rows(leaf: Any, number: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((number, *leaf.shape[1:]), leaf.dtype)
