"""Compiles the real train step for TPUs that are not here, and reads the result.

libtpu compiles for any topology without a chip (`pip install libtpu`). The memory that it states is
what the chip will hold; its times are lower bounds: XLA's cycles for each op, Pallas kernels by
their schedules (schedules.py), and collectives, for which XLA states none, at the rates of
chips.py. Encoders that run ahead of the step are not part of it.
"""

import collections
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import bundles, chips, hlo
from i2vgen_jax.plan import schedules as schedules_lib
from i2vgen_jax.training import objective
from i2vgen_jax.training import step as step_lib

# Collectives that move every byte through a link about twice: reduce and gather.
TWICE = ('all-reduce',)


def devices(topology: topology_lib.Topology) -> Sequence[jax.Device]:
  """Devices of a i2vgen_jax.parallel.topology.Topology, as libtpu describes them.

  Raises:
    ValueError: libtpu is not installed.
  """
  # Ask no TPU VM for metadata, and let several processes compile at once.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  from jax.experimental import topologies

  name = f'{topology.generation_name}:{topology.grid}'
  try:
    described = topologies.get_topology_desc(
      platform='tpu', topology_name=name, num_slices=topology.slices
    )
  except Exception as error:
    raise ValueError(
      f'libtpu cannot describe {name} ({error}). Compiling needs it: pip install libtpu'
    ) from error
  return described.devices


def trace_update(session: session_lib.Session, bucket: buckets_lib.Bucket) -> jax.stages.Traced:
  """The traced train step for one bucket, whose batch is already encoded."""
  abstract, shardings, _, step_of_loss = step_lib.from_config(session)
  encoded_loss = objective.make_encoded_loss(session.unet, session.schedule, **session.config.loss)
  jitted = step_of_loss(
    lambda params, _, encoded, seed, step: encoded_loss(params, encoded, seed, step)
  )
  latents, _, conditioning = session.unet_inputs(
    bucket.frames, bucket.height, bucket.width, bucket.batch_size
  )
  position = jax.ShapeDtypeStruct((bucket.batch_size,), jnp.int32)
  encoded = dict(latents=latents, conditioning=conditioning, position=position)
  placed = jax.tree.map(lambda _: mesh_lib.batch_sharding(session.mesh), encoded)
  return jitted.trace(
    sharding.with_shardings(abstract, shardings), None, sharding.with_shardings(encoded, placed)
  )


def compile_step(
  lowered: jax.stages.Lowered, options: Mapping[str, Any] | None = None
) -> tuple[jax.stages.Compiled, float]:
  """(compiled, CPU seconds); options are XLA's."""
  started = time.process_time()
  return lowered.compile(compiler_options=dict(options or {})), time.process_time() - started


def report(
  compiled: jax.stages.Compiled,
  mesh: jax.sharding.Mesh,
  device: chips.Device,
  model_flops: float,
  schedules: Mapping[schedules_lib.Kernel, bundles.Time],
) -> dict[str, Any]:
  """What the compiled step takes, as a dict for JSON.

  Args:
    compiled: the step, compiled for the mesh.
    mesh: the mesh of the devices.
    device: what one of them has.
    model_flops: FLOPs of the whole batch on all devices, as flops.train_step counts them.
    schedules: of its kernels.
  """
  program = hlo.parse(compiled.as_text() or '')
  memory: Any = compiled.memory_analysis()
  exchanges = hlo.collectives(program, dict(mesh.shape))
  op_secs = sum(op.cycles * times for op, times in hlo.executed(program)) / device.clock
  kernels = [(op, times) for op, times in hlo.executed(program) if is_kernel(op)]
  kernel_flops = sum(kernel_cost(op)[0] * times for op, times in kernels)
  kernel_rows = by_kernel(kernels, device, schedules)
  kernel_secs = sum(row['ms'] * row['number'] for row in kernel_rows) / 1e3
  exposed_secs = sum(secs(e, device) for e in exchanges if not e.overlaps)
  step_secs = op_secs + kernel_secs + exposed_secs
  num_devices = mesh.devices.size
  return {
    'memory_gib': {
      'capacity': device.hbm_bytes / 2**30,
      'peak': memory.peak_memory_in_bytes / 2**30,
      'arguments': memory.argument_size_in_bytes / 2**30,
      'temporary': memory.temp_size_in_bytes / 2**30,
      'program': memory.generated_code_size_in_bytes / 2**30,
    },
    'estimated_secs': {
      'ops': op_secs,
      'kernels': kernel_secs,
      'collectives_not_overlapped': exposed_secs,
      'collectives_overlapped': sum(secs(e, device) for e in exchanges if e.overlaps),
      'step': step_secs,
    },
    'estimated_mfu': model_flops / num_devices / step_secs / device.peak,
    'kernel_tflops': kernel_flops / 1e12,
    'xla_tflops': (compiled.cost_analysis() or {}).get('flops', 0) / 1e12,
    'kernels': kernel_rows,
    'collectives': by_kind_and_axis(exchanges),
    'all_to_alls': all_to_alls(exchanges),
    'most_expensive': most_expensive(program, device),
    'secs_by_kind_of_op': by_kind_of_op(program, device),
  }


def is_kernel(op: hlo.Op) -> bool:
  """Whether an op is a Pallas kernel."""
  return op.kind == 'custom-call' and hlo.KERNEL in op.text


def by_kernel(
  kernels: Sequence[tuple[hlo.Op, int]],
  device: chips.Device,
  schedules: Mapping[schedules_lib.Kernel, bundles.Time],
) -> list[dict[str, Any]]:
  """What each different kernel takes, the most in all first.

  A kernel without a schedule is taken to reach an assumed share of the peak, and is named as such;
  none is faster than memory.

  Args:
    kernels: (op, times) of a program.
    device: that runs them.
    schedules: by kernel, where there are any.
  """
  known = {(kernel.name, kernel.shapes): time for kernel, time in schedules.items()}
  numbers: Any = collections.Counter()
  rows: dict[Any, dict[str, Any]] = {}
  for op, times in kernels:
    key = kernel_name(op), kernel_shapes(op)
    numbers[key] += times
    if key in rows:
      continue
    num_flops, num_bytes = kernel_cost(op)
    by_schedule = known.get(key)
    if by_schedule:
      secs = by_schedule.cycles / device.clock
      told = dict(limit=by_schedule.limit, busy=by_schedule.busy, spills=by_schedule.spills)
    else:
      secs, told = num_flops / (device.peak * device.kernel_rate), dict(limit='assumed rate')
    from_memory = num_bytes / device.hbm_bytes_per_sec
    if from_memory > secs:
      secs, told = from_memory, told | dict(limit='HBM')
    rows[key] = dict(
      name=key[0],
      shapes=' '.join(key[1]),
      ms=secs * 1e3,
      share_of_peak=num_flops / secs / device.peak,
      **told,
    )
  found = [dict(row, number=numbers[key]) for key, row in rows.items()]
  return sorted(found, key=lambda row: -row['ms'] * row['number'])


def kernel_name(op: hlo.Op) -> str:
  """Of a Pallas kernel, as its call names it."""
  parts = op.path.split('/')
  return parts[-2] if len(parts) > 1 else op.name


def kernel_shapes(op: hlo.Op) -> tuple[str, ...]:
  """Types of what a kernel takes, without their layouts: ('bf16[4,16]', ...)."""
  stated = re.search(r'operand_layout_constraints=\{(.*?)\}, (?:\w+=|$)', op.text, re.DOTALL)
  types = hlo.array_types(stated[1]) if stated else []
  return tuple(re.sub(r'\{.*', '', text) for text in types)


def kernel_cost(op: hlo.Op) -> tuple[int, ...]:
  """(FLOPs, bytes) of a Pallas kernel: as it states them, or those of splash attention.

  Splash attention takes two matrix products forward, four for the gradients of keys and values and
  three for that of queries, since the backward pass recomputes the scores.
  """
  stated = re.search(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"', op.text)
  if stated:
    return tuple(int(number) for number in stated.groups())
  products = 4 if 'dkv' in op.name else 3 if 'dq' in op.name else 2
  shapes = [hlo.dims(part) for part in hlo.array_types(op.type)]
  *batch, tokens, size = max((s for s in shapes if len(s) == 4), key=lambda s: -s[-1])
  return products * 2 * int(np.prod(batch)) * tokens**2 * size, 0


def secs(exchange: hlo.Collective, device: chips.Device) -> float:
  """A lower bound of a collective's time: its bytes over all links of a device, one way."""
  rate = device.dcn_bytes_per_sec if 'slice' in exchange.axes else device.ici_bytes_per_sec / 2
  return exchange.bytes * exchange.times * (1 + (exchange.kind in TWICE)) / rate


def by_kind_and_axis(exchanges: Sequence[hlo.Collective]) -> dict[str, dict[str, float]]:
  """Number, bytes and overlapped bytes of collectives, by kind, axes and network."""
  rows = collections.defaultdict(lambda: dict(number=0, gib=0.0, overlapped_gib=0.0))
  for exchange in exchanges:
    network = 'DCN' if 'slice' in exchange.axes else 'ICI'
    row = rows[f'{exchange.kind} over {"+".join(exchange.axes) or "nothing"} ({network})']
    row['number'] += exchange.times
    row['gib'] += exchange.bytes * exchange.times / 2**30
    row['overlapped_gib'] += exchange.overlaps * exchange.bytes * exchange.times / 2**30
  return dict(rows)


def all_to_alls(exchanges: Sequence[hlo.Collective]) -> dict[str, float]:
  """MiB of all-to-alls by the module that each was made for; no mesh of ours asks for any."""
  rows: Any = collections.Counter()
  for exchange in exchanges:
    if exchange.kind == 'all-to-all':
      rows[exchange.op.path] += exchange.bytes * exchange.times / 2**20
  return dict(rows.most_common())


def most_expensive(program: hlo.Program, device: chips.Device) -> list[dict[str, Any]]:
  """The ten ops of most estimated time, with the module that each was made for."""
  rows = sorted(hlo.executed(program), key=lambda row: -row[0].cycles * row[1])[:10]
  return [
    dict(ms=op.cycles * times / device.clock * 1e3, op=op.kind, type=op.type[:60], module=op.path)
    for op, times in rows
  ]


def by_kind_of_op(program: hlo.Program, device: chips.Device) -> dict[str, float]:
  """Estimated seconds of matrix products, elementwise loops, copies and the rest."""
  totals: Any = collections.Counter()
  for op, times in hlo.executed(program):
    kind = op.kind
    if kind == 'fusion':
      kind = 'products and reductions' if 'kind=kOutput' in op.text else 'loops'
    totals[kind] += op.cycles * times / device.clock
  return {kind: value for kind, value in totals.most_common(6) if value}
