"""Compiles the real train step for TPUs that are not here, and reads the result.

libtpu compiles for any topology without a chip (`pip install libtpu`). The memory that it states is
what the chip will hold; its times are lower bounds: XLA's cycles for each op, Pallas kernels by
their schedules (schedules.py), and collectives, for which XLA states none, by the links of their
devices (links.py) where the schedule does not hide them (exchanges.py).
"""

import collections
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
from i2vgen_jax.plan import bundles, chips, exchanges, hlo, links, modules
from i2vgen_jax.plan import schedules as schedules_lib
from i2vgen_jax.training import abstract, objective
from i2vgen_jax.training import step as step_lib


def trace_update(
  session: session_lib.Session, bucket: buckets_lib.Bucket, with_encoders: bool = True
) -> jax.stages.Traced:
  """The traced train step for one bucket.

  Args:
    session: of the run, on its mesh.
    bucket: shape of the batch.
    with_encoders: False for a step whose batch is already encoded, as that of `data.cache` is.
  """
  state, shardings, _, step_of_loss = step_lib.from_config(session)
  state = sharding.with_shardings(state, shardings)
  if with_encoders and not session.config.data.cache:
    loss = objective.make_loss(session, session.dropout_rates(bucket.group))
    batch = abstract.batch(session, bucket, bucket.batch_size)
    return step_of_loss(loss).trace(state, abstract.frozen(session), batch)
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
  return jitted.trace(state, None, sharding.with_shardings(encoded, placed))


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
  encoder_secs: float = 0.0,
) -> dict[str, Any]:
  """What the compiled step takes, as a dict for JSON.

  Args:
    compiled: the step, compiled for the mesh.
    mesh: the mesh of the devices.
    device: what one of them has.
    model_flops: FLOPs of the whole batch on all devices, as flops.train_step counts them.
    schedules: of its kernels.
    encoder_secs: that encoders take which are not compiled with it, by their FLOPs.
  """
  program = hlo.parse(compiled.as_text() or '')
  memory: Any = compiled.memory_analysis()
  kernels = [(op, times) for op, times in hlo.executed(program) if is_kernel(op)]
  secs, by_module, collectives = times(program, mesh, device, schedules)
  if encoder_secs:
    secs['encoders, by their FLOPs'] = encoder_secs
  step_secs = sum(secs.values()) - secs['collectives_overlapped']
  return {
    'memory_gib': {
      'capacity': device.hbm_bytes / 2**30,
      'peak': memory.peak_memory_in_bytes / 2**30,
      'arguments': memory.argument_size_in_bytes / 2**30,
      'temporary': memory.temp_size_in_bytes / 2**30,
      'program': memory.generated_code_size_in_bytes / 2**30,
    },
    'estimated_secs': secs | {'step': step_secs},
    'estimated_mfu': model_flops / mesh.devices.size / step_secs / device.peak,
    'kernel_tflops': sum(kernel_cost(op)[0] * times for op, times in kernels) / 1e12,
    'xla_tflops': (compiled.cost_analysis() or {}).get('flops', 0) / 1e12,
    'kernels': by_kernel(kernels, device, schedules),
    **collectives,
    'modules': by_module,
    'secs_by_kind_of_op': by_kind_of_op(program, device),
  }


def times(
  program: hlo.Program,
  mesh: jax.sharding.Mesh,
  device: chips.Device,
  schedules: Mapping[schedules_lib.Kernel, bundles.Time],
) -> tuple[dict[str, float], list[dict[str, Any]], dict[str, Any]]:
  """(seconds by kind, rows of modules.rows, collectives by kind and all-to-alls by module).

  Args:
    program: compiled for the mesh.
    mesh: the mesh of the devices.
    device: what one of them has.
    schedules: of its kernels.
  """
  known = {(kernel.name, kernel.shapes): time for kernel, time in schedules.items()}

  def alone(op: hlo.Op) -> float:
    return kernel_time(op, device, known)[0] if is_kernel(op) else op.cycles / device.clock

  def work(op: hlo.Op) -> float:
    called = hlo.inside(op, program[0])
    return alone(op) + sum(alone(inner) * times for inner, times in called)

  found = exchanges.collectives(program, dict(mesh.shape))
  network = links.of_mesh(mesh, device)
  secs = [network.secs(each.kind, each.axes, each.groups, each.bytes) for each in found]
  exposed = exchanges.exposed(program, found, secs, work)
  waits = {each.op.name: secs for each, secs in zip(found, exposed, strict=True)}
  by_module = modules.rows(
    program, device, alone, lambda op: kernel_cost(op) if is_kernel(op) else None, waits
  )
  num = [each.times for each in found]
  kernel_secs = sum(alone(op) * n for op, n in hlo.executed(program) if is_kernel(op))
  exposed_secs = float(np.dot(num, exposed))
  kinds = {
    'ops': sum(op.cycles * n for op, n in hlo.executed(program)) / device.clock,
    'kernels': kernel_secs,
    'collectives_not_overlapped': exposed_secs,
    'collectives_overlapped': float(np.dot(num, secs)) - exposed_secs,
  }
  collectives = {
    'collectives': exchanges.by_kind_and_axis(found, secs, exposed),
    'all_to_alls': exchanges.all_to_alls(found),
  }
  return kinds, by_module, collectives


def is_kernel(op: hlo.Op) -> bool:
  """Whether an op is a Pallas kernel."""
  return op.kind == 'custom-call' and hlo.KERNEL in op.text


def by_kernel(
  kernels: Sequence[tuple[hlo.Op, int]],
  device: chips.Device,
  schedules: Mapping[schedules_lib.Kernel, bundles.Time],
) -> list[dict[str, Any]]:
  """What each different kernel takes, the most in all first.

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
    secs, told = kernel_time(op, device, known)
    rows[key] = dict(
      name=key[0],
      shapes=' '.join(key[1]),
      ms=secs * 1e3,
      share_of_peak=kernel_cost(op)[0] / secs / device.peak,
      **told,
    )
  found = [dict(row, number=numbers[key]) for key, row in rows.items()]
  return sorted(found, key=lambda row: -row['ms'] * row['number'])


def kernel_time(
  op: hlo.Op, device: chips.Device, known: Mapping[tuple[str, tuple[str, ...]], bundles.Time]
) -> tuple[float, dict[str, Any]]:
  """(seconds, what limits it) of a kernel.

  One without a schedule is taken to reach an assumed share of the peak, and is named as such; none
  is faster than memory.

  Args:
    op: the kernel.
    device: that runs it.
    known: schedules by name and shapes.
  """
  num_flops, num_bytes = kernel_cost(op)
  by_schedule = known.get((kernel_name(op), kernel_shapes(op)))
  if by_schedule:
    secs = by_schedule.cycles / device.clock
    told = dict(limit=by_schedule.limit, busy=by_schedule.busy, spills=by_schedule.spills)
  else:
    secs, told = num_flops / (device.peak * device.kernel_rate), dict(limit='assumed rate')
  from_memory = num_bytes / device.hbm_bytes_per_sec
  if from_memory > secs:
    secs, told = from_memory, told | dict(limit='HBM')
  return secs, told


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


def by_kind_of_op(program: hlo.Program, device: chips.Device) -> dict[str, float]:
  """Estimated seconds of matrix products, elementwise loops, copies and the rest."""
  totals: Any = collections.Counter()
  for op, times in hlo.executed(program):
    kind = op.kind
    if kind == 'fusion':
      kind = 'products and reductions' if 'kind=kOutput' in op.text else 'loops'
    totals[kind] += op.cycles * times / device.clock
  return {kind: value for kind, value in totals.most_common(6) if value}
