"""Devices, their memory and the links between them: rates, and that sums are right."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.plan import chips
from i2vgen_jax.plan import links as plan_links
from i2vgen_jax.preflight import report

P = jax.sharding.PartitionSpec
REPEATS = 10
# Of what is assumed: links and memory reach 70 to 90 % of their nominal rate.
ENOUGH = 0.5


def known() -> chips.Device | None:
  """What plans assume of the devices here; None for those that they do not know."""
  kind = jax.devices()[0].device_kind
  return next((device for device in chips.DEVICES.values() if device.kind == kind), None)


def num_bytes() -> int:
  """Of a device's array in what follows: 256 MiB, 4 MiB on CPU."""
  return 2**22 if jax.default_backend() == 'cpu' else 2**28


def inventory(mesh: jax.sharding.Mesh) -> Iterator[report.Line]:
  """All hosts have as many devices of one kind, with as much memory."""
  kinds = {device.device_kind for device in jax.devices()}
  local = report.of_all_hosts(jax.local_device_count()).ravel().astype(int)
  alike = len(kinds) == 1 and len(set(local)) == 1
  text = f'{len(jax.devices())} x {", ".join(sorted(kinds))} on {len(local)} hosts'
  if not alike:
    text += f'; hosts have {sorted(set(local))}: restart those that lack some'
  yield report.Line('devices', alike, text, len(jax.devices()), mesh.size)
  limits = [(device.memory_stats() or {}).get('bytes_limit', 0) for device in jax.local_devices()]
  device = known()
  lowest = report.of_all_hosts(min(limits)).min()
  if device is None or not lowest:
    yield report.Line('memory', None, 'nothing is assumed of such devices')
  else:
    yield report.against('memory', [lowest], device.hbm_bytes, 0.97, 'GB')


def memory_rate() -> report.Line:
  """Bytes per second that every device reads and writes: a copy that adds one."""
  size = num_bytes() // 4
  devices = jax.local_devices()
  arrays = [jax.device_put(np.zeros(size, np.float32), device) for device in devices]
  add = jax.jit(lambda x: x + 1, donate_argnums=0)

  def once(arrays: list[jax.Array]) -> list[jax.Array]:
    return [add(array) for array in arrays]

  secs = _secs(once, arrays)
  device = known()
  wanted = device.hbm_bytes_per_sec if device else None
  rates = report.of_all_hosts(2 * 4 * size / secs)
  return report.against('memory rate', rates, wanted, ENOUGH, 'GB/s')


def links(mesh: jax.sharding.Mesh) -> Iterator[report.Line]:
  """For each axis of the mesh with several devices: an all-reduce and an all-gather over it, their
  values, and the bytes per second that each device sends, against what plans assume of the links
  that the axis has."""
  device = known()
  for axis, size in mesh.shape.items():
    if size == 1:
      continue
    wanted = None
    if device:
      wanted = device.dcn_bytes_per_sec
      if axis != 'slice':
        network = plan_links.of_mesh(mesh, device)
        wanted = network.links(plan_links.along(mesh, axis)) * device.link_bytes_per_sec
    for kind in ('all-reduce', 'all-gather'):
      yield _link(mesh, axis, kind, wanted)


def _link(mesh: jax.sharding.Mesh, axis: str, kind: str, wanted: float | None) -> report.Line:
  size = mesh.shape[axis]
  length = num_bytes() // 4 // (1 if kind == 'all-reduce' else size)
  everywhere = P(tuple(mesh.axis_names))
  shard = functools.partial(jax.shard_map, mesh=mesh, in_specs=everywhere, out_specs=everywhere)

  @jax.jit
  @shard
  def start(_):
    return jnp.full((1, length), jax.lax.axis_index(axis) + 1.0)

  @jax.jit
  @shard
  def exchange(x):
    if kind == 'all-reduce':
      return jax.lax.psum(x, axis) * (2 / (size * (size + 1)))
    gathered = jax.lax.all_gather(x[0], axis)
    return gathered.sum(0, keepdims=True) * (2 / (size * (size + 1)))

  sharding = jax.sharding.NamedSharding(mesh, everywhere)
  zeros = jax.make_array_from_callback(
    (mesh.size,), sharding, lambda index: np.zeros(mesh.size, np.float32)[index]
  )
  x = start(zeros)
  once = exchange(x)  # The sum of 1 to size, by itself: 1 everywhere.
  right = all(
    np.allclose(np.asarray(part.data), 1.0, rtol=1e-5) for part in once.addressable_shards
  )
  name = f'{kind} over {axis}'
  if not report.of_all_hosts(right).all():
    return report.Line(name, False, 'gives wrong sums: a link or chip is faulty, replace the host')
  secs = _secs(exchange, x)
  sent = 4 * length * (2 if kind == 'all-reduce' else size) * (size - 1) / size
  return report.against(name, report.of_all_hosts(sent / secs), wanted, ENOUGH, 'GB/s')


def _secs(function: Callable[[Any], Any], argument: Any) -> float:
  """Seconds of one of several calls in a row, after one that compiles."""
  argument = jax.block_until_ready(function(argument))
  started = time.perf_counter()
  for _ in range(REPEATS):
    argument = function(argument)
  jax.block_until_ready(argument)
  return (time.perf_counter() - started) / REPEATS


def batch_lies_over_hosts(mesh: jax.sharding.Mesh) -> report.Line:
  """Each host reads its own rows, and the rows of all of them make one batch."""
  index, count = mesh_lib.batch_reader(mesh)
  rows = math.prod(mesh.shape[axis] for axis in mesh_lib.BATCH_AXES)
  local = np.arange(rows, dtype=np.float32).reshape(count, -1)[index]
  total = float(jnp.sum(mesh_lib.place_batch(local, mesh)))
  ok = total == rows * (rows - 1) / 2
  return report.Line('batch', ok, f'{count} parts of {rows // count} rows each', total)
