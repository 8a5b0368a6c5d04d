"""The device mesh: axes `data`, `fsdp`, `tensor`, and how a batch is laid over it.

The batch is split over data x fsdp; parameters over fsdp and tensor (sharding.py).
"""

import math

import jax
import numpy as np

AXES = ('data', 'fsdp', 'tensor')
P = jax.sharding.PartitionSpec


def make_mesh(axis_sizes, devices=None):
  """A mesh over all devices.

  Args:
    axis_sizes: dict with a size for each of `AXES`; at most one may be -1: whatever is left.
    devices: default all devices of all processes.

  Raises:
    ValueError: unknown axis, or sizes whose product is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = dict(axis_sizes)
  if set(sizes) != set(AXES):
    raise ValueError(f'mesh={sizes} must give a size for each of the axes {", ".join(AXES)}.')
  known = math.prod(size for size in sizes.values() if size != -1)
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
    raise ValueError(f'mesh={sizes}: sizes are positive, and one axis at most may be -1.')
  if len(devices) % known or (not free and known != len(devices)):
    raise ValueError(
      f'mesh={sizes} needs {known}{" times something" if free else ""} devices, but there are '
      f'{len(devices)}. Change --config.mesh.<axis>, or set one axis to -1.'
    )
  if free:
    sizes[free[0]] = len(devices) // known
  shape = tuple(sizes[name] for name in AXES)
  # Auto: the sharding of activations is XLA's to propagate (jax.make_mesh alone would make axes
  # Explicit).
  auto = (jax.sharding.AxisType.Auto,) * len(AXES)
  return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices)


def batch_shards(mesh):
  """Into how many parts a batch is split."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def batch_sharding(mesh):
  """Leading dim over data x fsdp, the rest whole."""
  return jax.sharding.NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh):
  """Every device holds all of it."""
  return jax.sharding.NamedSharding(mesh, P())


def place_batch(batch, mesh):
  """Puts this host's rows of a batch on its devices; the result is the global batch.

  Args:
    batch: dict of numpy arrays, leading dim = global batch / number of processes.
    mesh: from `make_mesh`.
  """
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for name, value in batch.items()
  }


def check_batch_sizes(buckets, mesh, accumulation):
  """Raises ValueError if a bucket's batch does not divide over shards, hosts and micro-batches."""
  parts = batch_shards(mesh) * accumulation
  for bucket in buckets:
    if bucket.batch_size % parts or bucket.batch_size % jax.process_count():
      raise ValueError(
        f'bucket {bucket.name!r}: batch_size={bucket.batch_size} must be a multiple of {parts} = '
        f'{batch_shards(mesh)} (data x fsdp shards of mesh {dict(mesh.shape)}) x {accumulation} '
        f'(train.accumulation), and of {jax.process_count()} processes.'
      )
