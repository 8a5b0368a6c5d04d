"""Shapes of what a step is given: for plans, and for programs that are compiled without data."""

from typing import Any

import jax
import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.stream import fields as fields_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.pretrained import frozen as frozen_lib


def batch(
  session: session_lib.Session, bucket: buckets_lib.Bucket, batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch of media, as the stream gives it, by name of its fields; placed on the mesh, if any.

  Args:
    session: whose signals read it.
    bucket: gives its size and frames.
    batch_size: rows.
  """
  fields = session.fields()
  rows = fields_lib.Rows(bucket, [''] * batch_size, range(batch_size))
  arrays = {
    field.name: jax.ShapeDtypeStruct((batch_size, *field.shape(bucket)), np.uint8)
    for field in fields_lib.pixel_fields(fields)
  }
  made = fields_lib.add_rows({}, (*fields, fields_lib.Position()), rows)
  arrays |= {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in made.items()}
  if not isinstance(session.mesh, jax.sharding.Mesh):
    return arrays
  placed = mesh_lib.batch_sharding(session.mesh)
  return {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
    for name, leaf in arrays.items()
  }


def frozen(session: session_lib.Session) -> dict[str, Any]:
  """What Session.load_frozen loads: parameters by network, and what replaces dropped signals."""
  networks = frozen_lib.abstract(session.networks)
  null = {
    name: jax.eval_shape(session.signals[name].encode, networks, negative)
    for name, negative in session.negative(session.config.negative_prompt).items()
  }
  if isinstance(session.mesh, jax.sharding.Mesh):
    least = session.config.sharding.min_elements
    networks = sharding.with_shardings(networks, sharding.shard_tree(networks, session.mesh, least))
    whole = mesh_lib.replicated(session.mesh)
    null = sharding.with_shardings(null, jax.tree.map(lambda _: whole, null))
  return networks | {'null': null}
