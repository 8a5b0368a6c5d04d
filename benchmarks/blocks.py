"""One block of the U-Net, forward and backward, compiled by libtpu for a topology: what it costs.

  python -m benchmarks.blocks ResBlock|SpatialTransformer|TemporalTransformer
      [--topology=v5p-8] [--channels=320] [--size=32x56] [--frames=16] [--batch=4]
      [--remat=none|block|products|offload] [--profile=none] [--fsdp=-1] [--context=1] [--kernels]

Size is of the latents; batch is of the `context` devices that hold frames of the same videos.
Compiles for 20 seconds to 3 minutes of CPU time; --kernels reads the schedules of kernels alone,
in 20 to 40 seconds. Figures are XLA's cycles and schedules of kernels; see docs/performance.md.
"""

import argparse
import json

import jax
import jax.numpy as jnp

from i2vgen_jax.models import attention, layers, unet3d, video_parts
from i2vgen_jax.parallel import flops, replicas, sharding, xla_profiles
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import chips, compiled, schedules

NORM_GROUPS, HEAD_DIM, DROPOUT, CONTEXT, MIN_ELEMENTS = 32, 64, 0.1, (145, 1024), 65_536


def block(name, channels, shape, remat):
  """(module, shapes of its arguments)."""
  dtype, batch_size = jnp.bfloat16, shape[0]
  x = jax.ShapeDtypeStruct((*shape, channels), dtype)
  sizes = (channels // HEAD_DIM, HEAD_DIM, NORM_GROUPS, dtype)
  if name == 'ResBlock':
    embedding = jax.ShapeDtypeStruct((batch_size, 1280), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size))
    cls = unet3d.rematerialized(layers.ResBlock, remat)
    return cls(channels, NORM_GROUPS, DROPOUT, dtype), (x, embedding, keys)
  if name == 'SpatialTransformer':
    context = jax.ShapeDtypeStruct((batch_size, *CONTEXT), dtype)
    return unet3d.rematerialized(attention.SpatialTransformer, remat)(*sizes), (x, context)
  return unet3d.rematerialized(attention.TemporalTransformer, remat)(*sizes), (x,)


def measure(
  name, topology, channels, size, frames, batch, remat, profile, fsdp=-1, context=1, kernels=False
):
  """compiled.report of one block, its weights split over fsdp devices (-1: over all), or what its
  kernels alone take."""
  sizes = dict(
    slice=topology.slices, data=1 if fsdp < 0 else -1, fsdp=fsdp, context=context, tensor=1
  )
  devices = chips.described(topology)
  mesh = mesh_lib.make_mesh(sizes, devices)
  shape = (batch * mesh.devices.size // context, frames, *size)
  module, arguments = block(name, channels, shape, remat)
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(module.init, key, *arguments)
  placed = sharding.shard_tree(params, mesh, MIN_ELEMENTS)
  rows = mesh_lib.batch_sharding(mesh)

  apply = video_parts.split_videos(module.apply)

  def backward(batch, params):
    dy, x, *others = batch
    return jax.vjp(lambda params, x: apply(params, x, *others), params, x)[1](dy)

  backward = mesh_lib.within(mesh, replicas.mean_over_replicas(backward, has_rows=True))
  batch = (arguments[0], *arguments)  # The gradient looks like x.
  traced = jax.jit(backward, out_shardings=(placed, rows)).trace(
    sharding.with_shardings(batch, (rows,) * len(batch)),
    sharding.with_shardings(params, placed),
  )
  options = xla_profiles.options(profile, 'tpu', topology.slices)
  device = chips.device(topology)
  found = schedules.of_program(traced.jaxpr.jaxpr)
  times = schedules.times(found, topology, devices, device)
  if kernels:
    return dict(block=name, kernels=[kernel_row(each, times.get(each), device) for each in found])
  executable, secs = compiled.compile_step(traced.lower(), options)
  model_flops = 3 * flops.count(module.apply, params, *arguments)
  return dict(
    block=name,
    compile_cpu_secs=secs,
    floor_secs=model_flops / mesh.devices.size / device.peak,
    bytes_accessed=executable.cost_analysis()['bytes accessed'],
    **compiled.report(executable, mesh, device, model_flops, times),
  )


def kernel_row(kernel, time, device):
  """What a kernel takes, as compiled.by_kernel has it; time is None without a schedule."""
  row = dict(name=kernel.name, shapes=' '.join(kernel.shapes))
  if time is None:
    return row
  secs = max(time.cycles / device.clock, kernel.num_bytes / device.hbm_bytes_per_sec)
  share = kernel.num_flops / secs / device.peak
  return row | dict(ms=secs * 1e3, share_of_peak=share, limit=time.limit, busy=time.busy)


if __name__ == '__main__':
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('block', choices=('ResBlock', 'SpatialTransformer', 'TemporalTransformer'))
  parser.add_argument('--topology', type=topology_lib.parse, default='v5p-8')
  parser.add_argument('--channels', type=int, default=320)
  parser.add_argument('--size', type=lambda text: tuple(map(int, text.split('x'))), default='32x56')
  parser.add_argument('--frames', type=int, default=16)
  parser.add_argument('--batch', type=int, default=4)
  parser.add_argument('--remat', choices=('none', *unet3d.POLICIES), default='none')
  parser.add_argument('--profile', choices=xla_profiles.PROFILES, default='none')
  parser.add_argument('--fsdp', type=int, default=-1)
  parser.add_argument('--context', type=int, default=1)
  parser.add_argument('--kernels', action='store_true', help='schedules of the kernels alone')
  options = vars(parser.parse_args())
  print(json.dumps(measure(options.pop('block'), **options), indent=1))
