"""What a config takes on a topology, from shapes alone: no compiler, no device, seconds.

Parameters, optimizer and average are exact. Activations are what JAX's reverse mode keeps: XLA
recomputes some of it and pads some, so they are an estimate. Time is FLOPs, those of the frozen
encoders and what is computed twice too, at a stated share of the peak.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.models import attention, layers, lora, unet3d
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import chips, cost
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.training import optimizer, step

GIB = 2**30
MFU = 0.4  # Share of the peak that a run is assumed to reach, unless told.


@dataclasses.dataclass(frozen=True)
class Plan:
  """All that the table shows; bytes are of one device."""

  num_parameters: int
  bytes: dict  # Kind -> bytes.
  capacity: float
  samples_per_device: float
  bytes_per_sample: float  # Activations, estimated.
  buckets: list  # dict(name, batch_size, share, step_tflops, again_tflops, encode_tflops).
  programs: int  # Train steps to compile, at most: aspects that no example has are not.
  checkpoint_bytes: int
  checkpoints_kept: int
  secs_per_step: float
  samples_per_sec: float
  hours: float
  chip_hours: float
  price: float | None  # Of the chip-hours, if the price of one is known.
  loader_vcpus: float
  host_vcpus: int
  basis: str  # Of memory, time and price.
  hints: list


def make(
  config: ml_collections.ConfigDict,
  topology: topology_lib.Topology,
  buckets: Sequence[buckets_lib.Bucket],
  *,
  mfu: float = MFU,
  clip_cpu_secs: float = 0.15,
  price_per_chip_hour: float | None = None,
  memory_gib: float = 0.0,
) -> Plan:
  """The Plan.

  Args:
    config: the config of the run.
    topology: TPUs.
    buckets: the buckets of the config.
    mfu: assumed share of the peak, in (0, 1].
    clip_cpu_secs: CPU seconds to read and decode one example.
    price_per_chip_hour: in any currency; None if it is not known.
    memory_gib: of a device, in place of the TPU's; 0 leaves that.

  Raises:
    ValueError: mesh, batches or sharding do not fit the topology.
  """
  device, sizes = chips.device(topology), mesh_lib.resolve(config.mesh, topology.devices)
  mesh = chips.abstract_mesh(sizes, device)
  mesh_lib.check_batch_sizes(buckets, mesh, config.train.accumulation)
  logging.info('tracing the train step of %d buckets ...', len(buckets))
  session = session_lib.build(config, reads_captions=False).on(mesh)
  state, placed, _, _ = step.from_config(session)

  largest = max(buckets, key=lambda b: b.batch_size * b.frames * b.height * b.width)
  samples = samples_per_device(session, largest)
  kept = activation_bytes(session, largest, device) / sizes['tensor']
  num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  moving = {
    # XLA gathers a tensor when it is needed, and keeps it if there is room.
    'weights gathered in bfloat16 (at most)': 2 * num_gathered(state.params, placed.params),
    f'activations, {samples:g} x {largest.name} (estimate)': samples * kept,
  }
  if lora.is_used(config):
    moving['kernels with their adapters in bfloat16'] = 2 * lora.num_adapted(state.params)
  rows = cost.bucket_rows(session, buckets)
  parts = ('step_tflops', 'again_tflops', 'encode_tflops')
  tflops = sum(row['share'] * row[part] for row in rows for part in parts)
  secs = tflops * 1e12 / (topology.devices * device.peak * mfu)
  hours = config.train.num_steps * secs / 3600
  per_sec = sum(row['share'] * row['batch_size'] for row in rows) / secs
  plan = Plan(
    num_parameters=num_parameters,
    bytes=state_bytes(state, placed, session) | moving,
    capacity=memory_gib * GIB or device.hbm_bytes,
    samples_per_device=samples,
    bytes_per_sample=kept,
    buckets=rows,
    programs=cost.num_programs(session, buckets),
    checkpoint_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)),
    checkpoints_kept=config.checkpoint.keep_last,
    secs_per_step=secs,
    samples_per_sec=per_sec,
    hours=hours,
    chip_hours=hours * topology.chips,
    price=None if price_per_chip_hour is None else price_per_chip_hour * hours * topology.chips,
    loader_vcpus=1.3 * per_sec / topology.hosts * clip_cpu_secs,
    host_vcpus=device.host_vcpus * topology.chips_per_host // 4,
    basis=f'estimate: at {mfu:.0%} of the peak',
    hints=[],
  )
  plan.hints.extend(hints(plan, sizes, config))
  return plan


def samples_per_device(session: session_lib.Session, bucket: buckets_lib.Bucket) -> float:
  """How many of a bucket's videos a device works on at a time.

  Args:
    session: of the run, on its mesh.
    bucket: whose batch is divided.
  """
  mesh = session.mesh
  # `context` splits the batch or a video, and so leaves less to each device.
  shards = mesh_lib.batch_shards(mesh) * mesh.shape['context']
  return bucket.batch_size / (shards * session.config.train.accumulation)


def state_bytes(
  state: step.TrainState, placed: step.TrainState, session: session_lib.Session
) -> dict[str, int]:
  """Exact bytes of one device by kind; the gradients lie as the parameters do.

  Args:
    state: TrainState of shapes.
    placed: TrainState of their shardings.
    session: the session of the run.
  """
  config = session.config
  frozen = frozen_lib.abstract(session.networks)
  frozen_placed = sharding.shard_tree(frozen, session.mesh, config.sharding.min_elements)
  trained = optimizer.trained(config, state.params)
  gradients = device_bytes(*(_chosen(tree, trained) for tree in (state.params, placed.params)))
  return {
    'parameters': device_bytes(state.params, placed.params),
    'optimizer': device_bytes(state.opt_state, placed.opt_state),
    'average (EMA)': device_bytes(state.ema_params, placed.ema_params),
    'gradients': gradients * (1 if config.train.accumulation == 1 else 2),
    'frozen encoders': device_bytes(frozen, frozen_placed),
  }


def num_gathered(params: Any, shardings: Any) -> int:
  """How many numbers each use takes from elsewhere: shards of other devices, or float32."""
  return sum(
    leaf.size
    for leaf, placed in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True)
    if leaf.dtype != jnp.bfloat16 or placed.shard_shape(leaf.shape) != leaf.shape
  )


def _chosen(tree: Any, chosen: Any) -> list[Any]:
  pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(chosen), strict=True)
  return [leaf for leaf, is_chosen in pairs if is_chosen]


def device_bytes(tree: Any, shardings: Any) -> int:
  """Bytes of a tree's shards in the memory of one device, not counting that of its host."""
  return sum(
    math.prod(placed.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf, placed in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    if placed.memory_kind != 'pinned_host'
  )


def activation_bytes(
  session: session_lib.Session, bucket: buckets_lib.Bucket, device: chips.Device
) -> int:
  """Bytes per sample that a device keeps for the U-Net's backward pass; if it recomputes blocks,
  also those of the costliest one.

  Args:
    session: the session of the run.
    bucket: shape of the videos.
    device: the device that the kernels are chosen for.
  """
  unet = session.unet
  inputs = functools.partial(session.unet_inputs, bucket.frames, bucket.height, bucket.width)
  params = jax.eval_shape(unet.init, jax.random.key(0), *session.smallest_unet_inputs())
  mesh = chips.abstract_mesh(dict.fromkeys(mesh_lib.AXES, 1), device)
  one, two = (residual_bytes(unet, params, mesh, *inputs(n), _keys(n)) for n in (1, 2))
  bare = lora.bare(unet)
  block = largest_block(bare, mesh, inputs(1)[0].shape) if bare.remat != 'none' else 0
  return two - one + block  # What does not grow with the batch is weights.


def largest_block(
  unet: unet3d.UNet3D, mesh: jax.sharding.AbstractMesh, shape: tuple[int, ...]
) -> int:
  """Bytes that the costliest block of the highest resolution keeps while it is recomputed.

  Args:
    unet: gives channels and heads.
    mesh: a mesh of one device.
    shape: (B, F, H, W, C) of the noisy latents.
  """
  batch_size, frames, height, width, _ = shape
  channels = unet.block_channels[0]
  x = jax.ShapeDtypeStruct((batch_size, frames, height, width, channels), unet.dtype)
  context = jax.ShapeDtypeStruct((batch_size, 145, unet.context_dim), unet.dtype)
  embedding = jax.ShapeDtypeStruct((batch_size, 4 * channels), jnp.float32)
  sizes = (channels // unet.head_dim, unet.head_dim, unet.norm_groups, unet.dtype)
  blocks = (
    (
      layers.ResBlock(channels, unet.norm_groups, unet.dropout, unet.dtype),
      (x, embedding, _keys(batch_size)),
    ),
    (attention.SpatialTransformer(*sizes), (x, context)),
    (attention.TemporalTransformer(*sizes), (x,)),
  )
  key = jax.random.key(0)
  return max(
    residual_bytes(block, jax.eval_shape(block.init, key, *arguments), mesh, *arguments)
    for block, arguments in blocks
  )


def residual_bytes(
  module: Any, params: Any, mesh: jax.sharding.AbstractMesh, *arguments: Any
) -> int:
  """Device bytes of what reverse mode keeps of one call, parameters themselves left out.

  Args:
    module: a Flax module.
    params: its variables; shapes will do.
    mesh: a mesh of one device.
    arguments: arguments of the call; shapes will do.
  """

  def forward(params: Any, *arguments: Any) -> Any:
    return jax.vjp(lambda params: module.apply(params, *arguments), params)[1]

  kept = jax.make_jaxpr(mesh_lib.within(mesh, forward))(params, *arguments).out_avals
  # Leave out keys of dropout: they have no item size, and next to no bytes.
  return sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in kept
    if leaf.memory_space == jax.memory.Space.Device
    if jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == jnp.bool_
  ) - sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def _keys(num: int) -> Any:
  return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num))


def hints(plan: Plan, sizes: Mapping[str, int], config: ml_collections.ConfigDict) -> list[str]:
  """Lines of advice.

  Args:
    plan: the plan, whose own hints are not read.
    sizes: size of each mesh axis.
    config: the config of the run.
  """
  total = sum(plan.bytes.values())
  fixed = total - plan.samples_per_device * plan.bytes_per_sample
  most = int((plan.capacity - fixed) / plan.bytes_per_sample)
  lines, source = [], plan.basis.split(':')[0]
  if total <= plan.capacity:
    lines.append(f'fits with fsdp={sizes["fsdp"]} ({source})')
  else:
    lines.append(f'does not fit with fsdp={sizes["fsdp"]} ({source})')
    if config.unet.remat == 'none':
      lines.append(
        'try --config.unet.remat=block (or products): blocks are computed twice, and little is kept'
      )
  lines.append(
    f'batch per device <= {most}' if most >= 1 else 'not one video of this size fits a device'
  )
  if sizes['fsdp'] > 64:
    lines.append('fsdp above 64 leaves kernels of 320 channels undivided')
  if plan.loader_vcpus > plan.host_vcpus:
    lines.append(f'the loader needs more than the {plan.host_vcpus} vCPUs of a host')
  return lines
