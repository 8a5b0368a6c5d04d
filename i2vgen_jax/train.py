"""Trains one stage: python -m i2vgen_jax.train --config=configs/demo.py --workdir=DIR

The whole run, top to bottom. Start it again with the same workdir and it goes on from its last
checkpoint.
"""

from absl import flags

from i2vgen_jax import config_reference
from i2vgen_jax.process import cli, config_flag

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  config_flag.define()
  config_reference.define()
  flags.DEFINE_string('workdir', None, 'Where the run lives: checkpoints, logs, samples.')
  flags.DEFINE_bool('distributed', False, 'Train together with the other hosts of this job.')
  flags.DEFINE_bool('dry_run', False, 'Only say what a start would do; compile and write nothing.')
  flags.DEFINE_string('topology', '', '--dry_run: machines, as v5p-128; default those here.')
  flags.DEFINE_float('price_per_chip_hour', None, '--dry_run: what an hour of a chip costs.')
  flags.DEFINE_string('sheet', 'first_batch.png', '--dry_run: PNG to write the first batch to.')
  flags.mark_flags_as_required(['config', 'workdir'])
  cli.run(__file__)

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from absl import logging
from clu import parameter_overview
from etils import epath
from ml_collections.config_flags import config_flags

from data_pipelines.stream import stream as stream_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding, xla_profiles
from i2vgen_jax.plan import dry_run, memory
from i2vgen_jax.process import errors, exit_codes, hosts, output_folder
from i2vgen_jax.process import oversight as oversight_lib
from i2vgen_jax.stored import checkpoint, run_config
from i2vgen_jax.training import (
  cache,
  compilation,
  data,
  examine,
  goodput,
  guard,
  losses,
  optimizer,
  profiler,
  warm_start,
)
from i2vgen_jax.training import progress as progress_lib
from i2vgen_jax.training import step as step_lib
from i2vgen_jax.training import validation as validation_lib
from i2vgen_jax.training import writer as writer_lib


def main() -> int:
  """Entry point; returns the exit code."""
  given = flags.FLAGS
  if given.dry_run:
    source = config_flags.get_config_filename(given['config'])
    planned = dict(topology=given.topology, price_per_chip_hour=given.price_per_chip_hour)
    dry_run.dry_run(given.config, given.workdir, source, sheet=given.sheet, **planned)
    return exit_codes.DONE
  if given.distributed:
    hosts.join(**given.config.hosts)
  return train(given.config, given.workdir)


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> int:
  """Runs the config in the workdir, from its newest checkpoint if it has one.

  Returns:
    0 at the end of the run or at train.stop_at, 42 after a SIGTERM or SIGINT; the state is saved
    in each case.

  Raises:
    ValueError: the config, data, mesh, checkpoint or workdir is invalid; before anything compiles.
    jax.errors.JaxRuntimeError: a device failed, or a step taken twice gave other bits.
    errors.TrainingError: too many steps were skipped, or too many samples are bad.
  """
  with oversight_lib.Oversight(config.watchdog) as oversight:
    return overseen(config, workdir, oversight)


def overseen(
  config: ml_collections.ConfigDict,
  workdir: epath.PathLike,
  oversight: oversight_lib.Oversight,
) -> int:
  """`train`, of which the oversight watches the time, the signals and the lease."""
  # 1 Setup: who we are, and everything that the config names.
  lead = hosts.is_lead()
  output_folder.check_writable(workdir, 'workdir')
  compilation.use_cache(config, workdir)
  config, session = warm_start.opened(config, workdir)
  mesh = mesh_lib.make_mesh(config.mesh)
  session = session.on(mesh)
  xla_options = xla_profiles.options(
    config.compilation.profile, jax.default_backend(), mesh.shape['slice']
  )

  # 2 Data: one bucket (frames x size) per step; the step number is the position.
  buckets = session.buckets()
  mesh_lib.check_batch_sizes(buckets, mesh, config.train.accumulation)
  stream = data.make_stream(session)
  validation = validation_lib.Validation(session, session.sample_bucket())

  # 3 Optimizer and state, as shapes only.
  abstract_state, shardings, init, step_of_loss = step_lib.from_config(session)
  explain = memory.Explanation(session, abstract_state, shardings, buckets)
  oversight.push(lambda kind, error, traceback: explain(error))
  run_config.check(workdir, config)
  oversight.take_lease(workdir)
  keep_last = config.checkpoint.keep_last
  hosts.preflight(config, workdir, checkpoint.bytes_to_come(workdir, keep_last, abstract_state))
  checkpoint.clear_failed_start(workdir)
  if lead:
    run_config.write(workdir, config)
    for signal in session.signals.values():
      signal.keep_files(workdir)

  timing = goodput.Figures(workdir, session, lead, oversight.watchdog)
  oversight.last_words = timing.failed

  # 4 Start: resume here, or from other weights, or from scratch.
  session = session.load_frozen(workdir)
  frozen = session.frozen
  if config.data.cache:
    cache.check(session)
  checkpoints = checkpoint.Checkpoints(workdir, **config.checkpoint)
  placed = sharding.with_shardings(abstract_state, shardings)
  optional = {'guard': guard.start()}
  first_step, state, position = checkpoints.restore_newest(placed, optional)
  resumed_at = None if state is None else first_step
  if state is None:
    state = xla_profiles.jit_once(init, out_shardings=shardings)()
    if config.start:
      first = warm_start.load(config, placed.params, mesh)
      state = jax.device_put(step_lib.start_from(state, state.params | first), shardings)
  else:
    data.resume(position, stream, workdir, run_config.plain(config)['data'])
    logging.info('Resuming at step %d of %d in %s.', first_step, config.train.num_steps, workdir)

  table = write_overview(workdir, config, state.params) if lead else ''

  # 5 The step: jitted, and compiled for every bucket and each of its aspects that has examples.
  steps = compilation.Steps(step_lib.by_bucket(session, step_of_loss), mesh, xla_options)
  boards = writer_lib.boards_of(config, workdir, resumed_at) if lead else []
  writer = writer_lib.Writer(workdir, lead, boards, resumed_at)
  writer.text(first_step, 'run/config', config.to_json(indent=2))
  writer.text(first_step, 'run/parameters', table)
  budget = {name: config.train[name] for name in ('max_skipped', 'skip_window')}
  skips = guard.Skips(state.guard, stream, writer, **budget)
  reported = losses.Losses(config.loss.timestep_range, config.train.levels_every, first_step)
  cadences = {name: config.train[name] for name in ('replay_every', 'norms_every')}
  examined = examine.Examined(steps, writer, **cadences)
  profile = profiler.Profile(
    workdir, config.train.profile_at, config.train.profile_steps, oversight.takes_profile
  )
  progress = progress_lib.Progress(first_step, config.train.num_steps, active=lead)

  # 6 Loop: save, report and validate one state, then one more step.
  last_step = min(config.train.stop_at or config.train.num_steps, config.train.num_steps)
  last_step = max(last_step, first_step)  # A run that is done stays so.
  replacements = data.Replacements(workdir, stream)
  batches = stream.iterate(first_step)  # Decodes ahead, while the step is compiled.
  step_metrics = None
  timing.begin_loop()
  try:
    if last_step > first_step:
      with timing.spending('compile'):
        shapes = {b.name: stream.shapes(b) for b in stream.buckets}
        more = validation.lower(state, frozen) if compilation.is_kept() else {}
        steps.compile(shapes, state, frozen, more)
        hosts.meet('all have compiled')  # Else those that are early would wait in their first step.
      progress.pause()
    oversight.stop.hold()
    for step in range(first_step, last_step + 1):
      profile.stop_at(step, step_metrics)
      at_end = step == last_step or oversight.stop.requested(step)
      log_due = step % config.train.log_every == 0
      save_due = at_end or (step > first_step and checkpoints.due(step, ask_clock=log_due))
      if step_metrics is not None and (save_due or log_due):
        timing.wait_for(step_metrics)
        step_metrics = reported.report(step) | skips.report(step, state.guard, step_metrics)
        steps_per_sec = progress.report(step, step_metrics)
        timings = timing.report(step) | {'steps_per_sec': steps_per_sec}
        writer.scalars(step, step_metrics | timings | {'num_bad_samples': stream.num_bad})
      if save_due:
        with timing.spending('checkpoint'):
          checkpoints.save(step, state, data.data_position(step, stream))
      finished = step == config.train.num_steps
      with timing.spending('validation'):
        # A run that resumes at first_step was validated there before it stopped.
        if step > first_step and validation.run(step, state, frozen, writer, workdir, finished):
          progress.pause()
      if at_end:
        oversight.stop.release()
        break
      profile.start_at(step)
      with timing.spending('input'):
        bucket, batch = next(batches)
        replacements.record(step)
      timing.step(bucket)
      batch = mesh_lib.place_batch(batch, mesh)
      state, step_metrics = examined(step, bucket.name, state, frozen, batch)
      reported.add(bucket.group, step_metrics)
      step_metrics['bucket'] = bucket.name
  except stream_lib.DataError as error:
    timing.failed(error)
    raise errors.TrainingError(str(error)) from error
  except Exception as error:
    explain(error)
    timing.failed(error)
    hosts.leave_pod(error)
    raise
  finally:
    batches.close()
    with timing.spending('checkpoint'):
      checkpoints.close()
    profile.close()
    writer.close()
    progress.close()
  timing.event('job_end_time')
  checkpoints.check_saved(step)
  with timing.spending('barrier'):
    hosts.meet('end of the run')
  if step < last_step:
    logging.warning('Stopped by a signal at step %d, saved. The same command goes on.', step)
    return exit_codes.PREEMPTED
  logging.info('Saved step %d of %d in %s.', step, config.train.num_steps, workdir)
  return 0


def write_overview(workdir: epath.PathLike, config: ml_collections.ConfigDict, params: Any) -> str:
  """Writes the table of all parameters beside the run, and returns it; logs how many there are, and
  learn."""
  table = parameter_overview.get_parameter_overview(params, include_stats=False)
  path = epath.Path(workdir) / 'parameters.txt'
  path.write_text(table)
  sizes = jax.tree.map(jnp.size, params)
  learn = jax.tree.map(lambda size, learns: size * learns, sizes, optimizer.trained(config, params))
  counts = (sum(jax.tree.leaves(tree)) for tree in (sizes, learn))
  logging.info('%s parameters, of which %s learn (table: %s)', *map('{:,}'.format, counts), path)
  return table
