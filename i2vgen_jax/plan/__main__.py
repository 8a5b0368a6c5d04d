"""Says what a run takes on a TPU topology, before anyone books it.

python -m i2vgen_jax.plan --config=configs/i2v.py:mesh=v5p-128 --topology=v5p-128 [--json=FILE]
... --compile --bucket=f16_at_8     also compiles the train step for it (libtpu; half an hour)
... --sample [--compile]            what one device holds while it samples, in place of training
"""

from absl import flags

from i2vgen_jax.process import cli, config_flag

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  flags.DEFINE_string('topology', None, 'TPUs to plan for, such as v5p-128 or 2xv5e-256.')
  flags.DEFINE_float('mfu', 0.4, 'Share of the peak FLOP/s that the run is assumed to reach.')
  flags.DEFINE_float(
    'clip_cpu_secs', 0.15, 'CPU seconds to read and decode an example.', lower_bound=0.0
  )
  flags.DEFINE_float(
    'price_per_chip_hour', None, 'What an hour of a chip costs; the plan then says the price.'
  )
  flags.DEFINE_bool('compile', False, 'Compile the train step for the topology (libtpu).')
  flags.DEFINE_string('bucket', '', 'Bucket to compile; default the first.')
  flags.DEFINE_enum(
    'encoders', 'compile', ['compile', 'count'],
    'Frozen encoders of a run without a cache: compiled into the step, as it runs; or counted, by '
    'their FLOPs at --mfu, which compiles sooner.',
  )  # fmt: skip
  flags.DEFINE_bool('sample', False, 'Plan sampling, one stage at a time, in place of training.')
  flags.DEFINE_float(
    'memory_gib', 0.0, "Memory of a device, as 24 of a GPU; default the TPU's.", lower_bound=0.0
  )
  flags.DEFINE_string('hlo', '', 'File to write the compiled program to, as text.')
  flags.DEFINE_string('json', '', 'File to write the plan to, as JSON.')
  flags.mark_flags_as_required(['config', 'topology'])
  cli.run(__file__)

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import ml_collections
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import storage
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import flops, xla_profiles
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.plan import (
  chips,
  compiled,
  cost,
  estimate,
  refined,
  sampling,
  schedules,
  table,
)  # fmt: skip


def main() -> None:
  """Entry point."""
  values = flags.FLAGS
  config, topology = values.config, topology_lib.parse(values.topology, ('tpu',))
  if not 0 < values.mfu <= 1:
    raise ValueError(f'--mfu={values.mfu} must lie in (0, 1]: a share of the peak.')
  if values.price_per_chip_hour is not None and not values.price_per_chip_hour >= 0:
    raise ValueError(f'--price_per_chip_hour={values.price_per_chip_hour} must be 0 or more.')
  chips.device(topology)
  buckets = buckets_lib.from_config(config)
  bucket = choose(buckets, values.bucket)
  if values.compile:
    chips.described(topology)  # Raises without libtpu.
  if values.sample:
    sample(config, topology, values.memory_gib, values.compile)
    return
  plan = estimate.make(
    config,
    topology,
    buckets,
    mfu=values.mfu,
    clip_cpu_secs=values.clip_cpu_secs,
    price_per_chip_hour=values.price_per_chip_hour,
    memory_gib=values.memory_gib,
  )
  print(table.lines(plan, values.topology))
  report = None
  if values.compile:
    rate = None if values.encoders == 'compile' else values.mfu
    report, sizes, samples = compile_for(config, topology, bucket, rate, values.hlo)
    print(json.dumps(report, indent=1))
    print(table.modules(report))
    plan = refined.by_compiled(plan, report, bucket.name, samples, sizes, config)
    print(table.lines(plan, values.topology))
  command = shlex.join(['python', '-m', 'i2vgen_jax.plan', *sys.argv[1:]])
  result: dict[str, Any] = {'command': command}
  result['estimate'] = dataclasses.asdict(plan)
  if report:
    result['compiled'] = report
  if values.json:
    content = json.dumps(result, indent=1) + '\n'
    storage.write_bytes(epath.Path(values.json), content.encode())


def sample(
  config: ml_collections.ConfigDict,
  topology: topology_lib.Topology,
  memory_gib: float = 0.0,
  compiles: bool = False,
) -> None:
  """Prints what one device holds while it samples a video alone; one stage at a time.

  Args:
    config: of the stage.
    topology: TPUs, of which one counts.
    memory_gib: of a device, in place of the TPU's; 0 leaves that.
    compiles: also compile all of it, by libtpu.
  """
  device = chips.device(topology)
  session = session_lib.build(config, reads_captions=False)
  session = session.on(chips.abstract_mesh(dict.fromkeys(mesh_lib.AXES, 1), device))
  bucket = session.sample_bucket()
  held = sampling.held_bytes(session, bucket)
  total, capacity = sum(held.values()), memory_gib * estimate.GIB or device.hbm_bytes
  print(f'{bucket.frames} frames of {bucket.width}x{bucket.height}; one {topology.name} device:')
  for kind, value in held.items():
    print(f'  {kind:48s}{value / estimate.GIB:9.2f} GiB')
  verdict = 'fits' if total <= capacity else 'may not fit: --compile knows what XLA saves'
  print(
    f'  {"in all":48s}{total / estimate.GIB:9.2f} GiB of '
    f'{capacity / estimate.GIB:.2f} GiB: {verdict}'
  )
  if compiles:
    mesh = mesh_lib.make_mesh(dict(data=1, fsdp=1, tensor=1), chips.described(topology)[:1])
    generate, arguments = sampling.program(session.on(mesh), bucket)
    executable, secs = compiled.compile_step(generate.lower(*arguments))
    memory: Any = executable.memory_analysis()
    peak, code = memory.peak_memory_in_bytes, memory.generated_code_size_in_bytes
    print(
      f'compiled in {secs:.0f} CPU s: {peak / estimate.GIB:.2f} GiB at the peak, weights included, '
      f'and {code / estimate.GIB:.2f} GiB of program'
    )


def choose(buckets: Sequence[buckets_lib.Bucket], name: str) -> buckets_lib.Bucket:
  """The bucket of a name, '' the first; raises ValueError for an unknown one."""
  named = {bucket.name: bucket for bucket in buckets}
  if name and name not in named:
    raise ValueError(f'--bucket={name!r} is unknown; known: {", ".join(named)}.')
  return named[name] if name else buckets[0]


def compile_for(
  config: ml_collections.ConfigDict,
  topology: topology_lib.Topology,
  bucket: buckets_lib.Bucket,
  encoders_mfu: float | None = None,
  hlo: str = '',
) -> tuple[dict[str, Any], dict[str, int], float]:
  """Compiles the step for one bucket; returns (compiled.report, sizes of the mesh, videos that a
  device works on at a time).

  Args:
    config: the config of the run.
    topology: TPUs to compile for.
    bucket: shape of the batch.
    encoders_mfu: None compiles the encoders with the step, unless a cache spares them; else the
      share of the peak at which they are counted.
    hlo: file for the compiled program as text; '' writes none.
  """
  device = chips.device(topology)
  devices = chips.described(topology)
  mesh = mesh_lib.make_mesh(config.mesh, devices)
  session = session_lib.build(config, reads_captions=False).on(mesh)
  print(f'compiling {bucket.name} for {topology.name} ...', file=sys.stderr)
  traced = compiled.trace_update(session, bucket, encoders_mfu is None)
  kernels = schedules.of_program(traced.jaxpr.jaxpr)
  times = schedules.times(kernels, topology, devices, device)
  options = xla_profiles.options(config.compilation.profile, 'tpu', topology.slices)
  executable, secs = compiled.compile_step(traced.lower(), options)
  if hlo:
    storage.write_bytes(epath.Path(hlo), (executable.as_text() or '').encode())
  encoder_secs, encoders = 0.0, 'compiled with the step'
  if config.data.cache:
    encoders = 'none: data.cache holds what they make'
  elif encoders_mfu is not None:
    encoding = cost.encoding_flops(session, bucket) * bucket.batch_size
    encoder_secs = encoding / (topology.devices * device.peak * encoders_mfu)
    encoders = f'counted: {encoding / 1e12:,.1f} TFLOP at {encoders_mfu:.0%} of the peak'
  model_flops = flops.train_step(session, bucket)
  report = dict(
    bucket=bucket.name,
    compile_cpu_secs=secs,
    encoders=encoders,
    **compiled.report(executable, mesh, device, model_flops, times, encoder_secs),
  )
  return report, dict(mesh.shape), estimate.samples_per_device(session, bucket)
