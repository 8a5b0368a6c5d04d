"""What a start of a run would find and do: `train --dry_run`.

Config, workdir, weights and data are checked in the order of a start, and the first fault is raised
as there. Of stored arrays names and shapes alone are read. Nothing compiles, and nothing is written
but a picture of the first batch, which does not go into the workdir.
"""

import math
from collections.abc import Iterable

import jax
import ml_collections
from etils import epath

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import lease
from data_pipelines.stream import history, peek
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import topology as topology_lib
from i2vgen_jax.parallel import xla_profiles
from i2vgen_jax.plan import chips, estimate, memory, table
from i2vgen_jax.pretrained import frozen as frozen_lib
from i2vgen_jax.process import config_flag, hosts, output_folder, oversight
from i2vgen_jax.stored import checkpoint, metadata, run_config
from i2vgen_jax.training import data, warm_start
from i2vgen_jax.training import step as step_lib
from i2vgen_jax.training import validation as validation_lib

MOST_ROWS = 16  # Of the first batch that are shown.


def dry_run(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  source: str,
  *,
  topology: str = '',
  price_per_chip_hour: float | None = None,
  sheet: str = 'first_batch.png',
) -> None:
  """Prints what a start would do, each part when it is known.

  Args:
    config: of the run.
    workdir: of the run.
    source: what --config was given: file and argument.
    topology: machines to check and plan for; '' for those that are here.
    price_per_chip_hour: in any currency; None if it is not known.
    sheet: PNG to write the first batch to.

  Raises:
    ValueError: a start would be refused, by the same error.
  """
  output_folder.check_writable(epath.Path(sheet).parent, 'sheet')
  shipped = config_flag.load(source)
  _tell('config', source, differences(shipped, config))
  output_folder.check_writable(workdir, 'workdir')
  config, session = warm_start.opened(config, workdir)
  machines = topology_lib.parse(topology) if topology else None
  session = session.on(mesh_of(config, machines))
  buckets = session.buckets()
  _check_devices(session, buckets, machines)
  stream = _stream(session)
  validation_lib.Validation(session, session.sample_bucket())  # Decodes held-out clips.
  state, shardings, _, _ = step_lib.from_config(session)
  step, change = _check_stored(session, workdir, state, stream)
  counts = [
    f'{bucket.name}: {stream.num_examples(bucket):,} examples in batches of {bucket.batch_size:,}'
    for bucket in stream.buckets
  ]
  _tell('data', f'fingerprint {stream.fingerprint}', counts)
  _show_batch(config, stream, step, change, sheet)
  explanation = memory.Explanation(session, state, shardings, buckets)
  print(plan(session, machines, buckets, explanation, price_per_chip_hour), flush=True)
  _tell('done', f'nothing was compiled, and nothing was written to {workdir}')


def _tell(name: str, text: str, lines: Iterable[str] = ()) -> None:
  print('\n'.join([f'{name:10s} {text}', *(f'  {line}' for line in lines)]), flush=True)


def differences(shipped: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> list[str]:
  """Fields whose values are not those of the config's file, as 'name: before -> now'."""
  before, now = (run_config.flatten(run_config.plain(each)) for each in (shipped, config))
  absent = '(absent)'
  return [
    f'{name}: {before.get(name, absent)!r} -> {now.get(name, absent)!r}'
    for name in dict.fromkeys([*before, *now])
    if before.get(name, absent) != now.get(name, absent)
  ]


def mesh_of(
  config: ml_collections.ConfigDict, machines: topology_lib.Topology | None
) -> mesh_lib.AnyMesh:
  """The run's mesh: of the devices here, or abstract; raises ValueError if it does not fit."""
  if machines is None:
    return mesh_lib.make_mesh(config.mesh)
  device = chips.DEVICES['v5e'] if machines.kind != 'tpu' else chips.device(machines)
  return chips.abstract_mesh(mesh_lib.resolve(config.mesh, machines.devices), device)


def _check_devices(
  session: session_lib.Session,
  buckets: list[buckets_lib.Bucket],
  machines: topology_lib.Topology | None,
) -> None:
  config, mesh = session.config, session.mesh
  mesh_lib.check_batch_sizes(buckets, mesh, config.train.accumulation)
  platform = machines.kind if machines else jax.default_backend()
  xla_profiles.options(config.compilation.profile, platform, mesh.shape['slice'])
  named = machines.name if machines else f'{mesh.size} x {jax.devices()[0].device_kind}'
  sizes = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items() if size > 1)
  _tell('devices', f'{named}; {sizes or "one device"}')


def _stream(session: session_lib.Session) -> stream_lib.TrainStream:
  """Of one host, whatever the mesh."""
  plain = run_config.plain(session.config)
  return stream_lib.from_config(plain, session.fields(), kept=session.kept())


def _check_stored(
  session: session_lib.Session,
  workdir: epath.PathLike,
  state: step_lib.TrainState,
  stream: stream_lib.TrainStream,
) -> tuple[int, history.Change | None]:
  """Checks workdir, weights and start; returns the step that the run goes on from, and with what
  change of the data."""
  config = session.config
  run_config.check(workdir, config, makes=False)
  lease.check(workdir, oversight.REFUSAL)
  needed = checkpoint.bytes_to_come(workdir, config.checkpoint.keep_last, state)
  free = hosts.check_room(workdir, needed)
  step, position = metadata.check_state(workdir, state, optional=['guard'])
  change = None
  if position is not None:
    plain = run_config.plain(config)['data']
    change = data.resume(position, stream, workdir, plain, writes=False)
  room = 'a bucket' if free is None else f'{free / 2**30:,.1f} GiB free'
  begins = 'a new run' if position is None else f'goes on from step {step:,}'
  _tell('workdir', f'{workdir}: {begins}; {room}, {needed / 2**30:,.1f} GiB to come')
  if config.start and position is None:
    _check_start(config, session.mesh)
  found = frozen_lib.check_fit(config, session.networks, workdir)
  _tell('weights', '', [f'{name}: {place}' for name, place in found.items()])
  return step, change


def _check_start(config: ml_collections.ConfigDict, mesh: mesh_lib.AnyMesh) -> None:
  started = run_config.read(config.start)
  with started.unlocked():
    started.start = ''
  model = session_lib.build(started, config.start, reads_captions=False).on(mesh)
  step = metadata.check_params(config.start, model.abstract_params())
  run_config.check_grown(started, step, f'start={config.start}')
  growing = ', '.join(config.unet.growing)
  _tell('start', f'{config.start}, step {step:,}' + (f'; {growing} grow in' if growing else ''))


def plan(
  session: session_lib.Session,
  machines: topology_lib.Topology | None,
  buckets: list[buckets_lib.Bucket],
  explanation: memory.Explanation,
  price_per_chip_hour: float | None,
) -> str:
  """Memory, hours and price, as `i2vgen_jax.plan` has them; of devices that it does not know, their
  memory."""
  planned = machines or chips.here(jax.devices())
  if planned is None or planned.kind != 'tpu':
    *_, lines = explanation.held()
    note = 'Hours and price are planned for TPUs: give --topology, such as v5p-128.'
    return '\n'.join([*lines, note])
  made = estimate.make(session.config, planned, buckets, price_per_chip_hour=price_per_chip_hour)
  return table.lines(made, planned.name)


def _show_batch(
  config: ml_collections.ConfigDict,
  stream: stream_lib.TrainStream,
  step: int,
  change: history.Change | None,
  sheet: str,
) -> None:
  """Writes the first rows of the batch of a step, as the run decodes them."""
  bucket = stream.bucket_at(step)
  common = math.gcd(*(each.batch_size for each in stream.buckets))
  parts = [part for part in range(1, common + 1) if common % part == 0]
  every = next((part for part in parts if bucket.batch_size <= MOST_ROWS * part), common)
  seen, batch = peek.look(run_config.plain(config), step, change=change, every=every)
  assert batch is not None  # It was decoded.
  shown = {name: batch[name][:MOST_ROWS] for name in ('video', 'clip_image')}
  peek.contact_sheet(shown).save(sheet)
  replaced = [f'{x["key"]}: {x["replaced"]}' for x in seen['examples'] if 'replaced' in x]
  rows = f'{len(shown["video"])} of {bucket.batch_size:,} rows in {sheet}'
  _tell('batch', f'step {step:,}, {bucket.name}: {rows}', [f'replaced: {x}' for x in replaced])
