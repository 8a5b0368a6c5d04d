"""The device mesh: axes `slice`, `data`, `fsdp`, `context`, `tensor`, and how a batch lies over it.

The batch is split over slice x data x fsdp; parameters over fsdp and tensor (sharding.py);
activations also over context, by more of the batch or by parts of a video, so that a chip may hold
less than one (models/video_parts.py). Slices are machines with fast links inside and a data centre
network between: what crosses it is one reduction of gradients per step.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

AXES = ('slice', 'data', 'fsdp', 'context', 'tensor')
BATCH_AXES = ('slice', 'data', 'fsdp')
P = jax.sharding.PartitionSpec
AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh


def resolve(axis_sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
  """Sizes of all `AXES`, in their order.

  Args:
    axis_sizes: dict with a size for each of `AXES`, `slice` and `context` 1 if left out; at most
      one may be -1: whatever is left.
    num_devices: how many devices there are in all.

  Raises:
    ValueError: unknown axis, or sizes whose product is not the number of devices.
  """
  sizes = {'slice': 1, 'context': 1} | dict(axis_sizes)
  if set(sizes) != set(AXES):
    raise ValueError(f'mesh={sizes} must give a size for each of the axes {", ".join(AXES)}.')
  known = math.prod(size for size in sizes.values() if size != -1)
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
    raise ValueError(f'mesh={sizes}: sizes are positive, and one axis at most may be -1.')
  if num_devices % known or (not free and known != num_devices):
    raise ValueError(
      f'mesh={sizes} needs {known}{" times something" if free else ""} devices, but there are '
      f'{num_devices}. Change --config.mesh.<axis>, or set one axis to -1.'
    )
  if free:
    sizes[free[0]] = num_devices // known
  return {name: sizes[name] for name in AXES}


def make_mesh(
  axis_sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh over all devices.

  Args:
    axis_sizes: see `resolve`.
    devices: default all devices of all processes.

  Raises:
    ValueError: as `resolve`, or `slice` is not the number of slices that the devices lie in.
  """
  devices = jax.devices() if devices is None else devices
  sizes = resolve(axis_sizes, len(devices))
  shape = tuple(sizes.values())
  slices = {getattr(device, 'slice_index', None) or 0 for device in devices}
  if len(slices) > 1 and len(slices) != sizes['slice']:
    raise ValueError(
      f'mesh={sizes}: the devices lie in {len(slices)} slices; set --config.mesh.slice='
      f'{len(slices)}, so that only gradients cross between them.'
    )
  # An axis may be shorter than a ring of the torus, as context=2 is on v5p's 4x4x4: cut the ring.
  if len(slices) == 1:
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  else:
    inside, between = (1, *shape[1:]), (shape[0],) + (1,) * (len(shape) - 1)
    grid = mesh_utils.create_hybrid_device_mesh(
      inside, between, devices=devices, allow_split_physical_axes=True
    )
  # Auto: XLA decides how activations lie, but for what models/video_parts.py says.
  return jax.sharding.Mesh(grid, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def within(mesh: AnyMesh, function: Callable[..., Any]) -> Callable[..., Any]:
  """The function, traced with this mesh as the current one, which models/kernels.py reads."""

  @functools.wraps(function)
  def traced(*arguments):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)

  return traced


def batch_shards(mesh: AnyMesh) -> int:
  """How many parts a batch is split into."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: AnyMesh) -> jax.sharding.NamedSharding:
  """Leading dim over slice x data x fsdp, the rest whole."""
  return jax.sharding.NamedSharding(mesh, P(BATCH_AXES))


def batch_reader(mesh: jax.sharding.Mesh) -> tuple[int, int]:
  """(index, count): which of so many parts of each batch this process reads.

  Processes read the same part if their devices hold the same rows, because the mesh splits matrices
  over them.

  Raises:
    ValueError: the rows of one process overlap those of another in part.
  """
  shards = batch_shards(mesh)
  rows = {}
  for device, (part,) in batch_sharding(mesh).devices_indices_map((shards,)).items():
    rows.setdefault(device.process_index, set()).add(part.indices(shards)[0])
  parts = sorted({tuple(sorted(held)) for held in rows.values()})
  if sum(map(len, parts)) != shards or len({len(part) for part in parts}) > 1:
    raise ValueError(
      f'mesh={dict(mesh.shape)} lays the rows of a batch unevenly over processes: {rows}. '
      'Let the devices of a process divide data x fsdp, or be divided by tensor.'
    )
  return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def replicated(mesh: AnyMesh) -> jax.sharding.NamedSharding:
  """Every device holds all of it."""
  return jax.sharding.NamedSharding(mesh, P())


def place_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """Puts this host's rows of a batch on its devices; the result is the global batch.

  Args:
    batch: tree of numpy arrays, leading dim = global batch / count of `batch_reader`.
    mesh: the mesh of the devices.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda value: jax.make_array_from_process_local_data(sharding, np.asarray(value)), batch
  )


def check_batch_sizes(buckets: Iterable[Any], mesh: AnyMesh, accumulation: int) -> None:
  """Raises ValueError if a bucket's batch does not divide over shards and micro-batches, or if the
  rest does not divide over `context`.

  Args:
    buckets: anything with name, batch_size and frames.
    mesh: the mesh of the devices.
    accumulation: how many micro-batches make a step.
  """
  parts, context = batch_shards(mesh) * accumulation, mesh.shape['context']
  for bucket in buckets:
    if bucket.batch_size % parts:
      raise ValueError(
        f'bucket {bucket.name!r}: batch_size={bucket.batch_size} must be a multiple of {parts} = '
        f'{batch_shards(mesh)} (slice x data x fsdp shards of mesh {dict(mesh.shape)}) x '
        f'{accumulation} (train.accumulation). Change batch_size, or put devices on another axis '
        'of the mesh, such as context or tensor.'
      )
    rows = bucket.batch_size // parts
    if rows % context and (rows > 1 or bucket.frames % context):
      raise ValueError(
        f'bucket {bucket.name!r}: {rows} rows of {bucket.frames} frames do not divide over mesh '
        f'axis context={context}: rows must be a multiple of it, or one row of such frames. Let '
        f'batch_size be a multiple of {parts * context}, or choose a smaller context axis.'
      )
