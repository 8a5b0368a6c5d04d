"""What one device holds while a stage samples a video: weights, and the most that comes and goes.

A cascade has one stage at a time on its devices, so that each is planned by itself.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.training import abstract


def held_bytes(session: session_lib.Session, bucket: buckets_lib.Bucket) -> dict[str, int]:
  """Bytes by kind.

  Args:
    session: of the run, on an abstract mesh of one device.
    bucket: shape of the video.
  """
  generate, arguments = program(session, bucket)
  params, frozen, _, _ = arguments
  return {
    'U-Net': num_bytes(params),
    'encoders and decoder': num_bytes(frozen),
    'the most of all else at a time (estimate)': most_alive(session.mesh, generate, *arguments),
  }


def program(
  session: session_lib.Session, bucket: buckets_lib.Bucket
) -> tuple[jax.stages.Wrapped, tuple[Any, ...]]:
  """(generate, shapes of its arguments) of one video, as `sample` calls it.

  Args:
    session: of the run, on its mesh.
    bucket: shape of the video.
  """
  config, whole = session.config, mesh_lib.replicated(session.mesh)
  params, frozen = session.abstract_params(), abstract.frozen(session)
  held = jax.eval_shape(session.held, {name: frozen[name] for name in session.networks})
  video: Any = None
  if config.refine.levels:
    shape = (1, bucket.frames, config.refine.height, config.refine.width, 3)
    video = jax.ShapeDtypeStruct(shape, jnp.uint8)
  inputs = generate_lib.Inputs(
    jax.eval_shape(session.of_batch, abstract.batch(session, bucket, batch_size=1)),
    session.negative(config.negative_prompt),
    video,
  )
  noise = session.unet_inputs(bucket.frames, bucket.height, bucket.width)[0]
  arguments = jax.eval_shape(session.held, params), frozen | held, inputs, noise
  place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)  # noqa: E731
  generate = generate_lib.make_generate(session, **generate_lib.settings(config))
  return generate, jax.tree.map(place, arguments)


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
    # Kernels work in memory of their own.
    inside = () if equation.primitive.name == 'pallas_call' else _inner(equation.params)
    within, before = max(map(_most_alive, inside), default=0), alive
    for variable in equation.outvars:
      made[variable] = _size(variable.aval)
      alive += made[variable]
    # A loop's results are there from its first round on; another call's are counted within it.
    most = max(most, alive, within + (alive if equation.primitive.name == 'scan' else before))
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
