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
    run = Run(config, workdir, oversight)
    run.start()
    run.prepare()
    run.loop()
    return run.end()


class Run:
  """`train`, whose methods come one after the other; all but the loop take minutes at most.

  Args:
    config: of the run.
    workdir: of the run.
    oversight: that watches the time, the signals and the lease.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    oversight: oversight_lib.Oversight,
  ):
    # 1 Setup: who we are, and everything that the config names.
    self.workdir, self.oversight, self.lead = workdir, oversight, hosts.is_lead()
    output_folder.check_writable(workdir, 'workdir')
    compilation.use_cache(config, workdir)
    self.config, session = warm_start.opened(config, workdir)
    self.mesh = mesh_lib.make_mesh(self.config.mesh)
    self.session = session.on(self.mesh)
    # Raises before anything compiles if there is no such profile.
    self._xla_options = xla_profiles.options(
      self.config.compilation.profile, jax.default_backend(), self.mesh.shape['slice']
    )

    # 2 Data: one bucket (frames x size) per step; the step number is the position.
    buckets = self.session.buckets()
    mesh_lib.check_batch_sizes(buckets, self.mesh, self.config.train.accumulation)
    self.stream = data.make_stream(self.session)
    self.validation = validation_lib.Validation(self.session, self.session.sample_bucket())

    # 3 Optimizer and state, as shapes only.
    self._abstract_state, self._shardings, self._init, self._step_of_loss = step_lib.from_config(
      self.session
    )
    self._explain = memory.Explanation(self.session, self._abstract_state, self._shardings, buckets)
    oversight.push(lambda kind, error, traceback: self._explain(error))
    self._take_workdir()
    self.timing = goodput.Figures(workdir, self.session, self.lead, oversight.watchdog)
    oversight.last_words = self.timing.failed

  def _take_workdir(self) -> None:
    """Makes the workdir this run's: its lease, its room, its config."""
    config, workdir = self.config, self.workdir
    run_config.check(workdir, config)
    self.oversight.take_lease(workdir)
    keep_last = config.checkpoint.keep_last
    to_come = checkpoint.bytes_to_come(workdir, keep_last, self._abstract_state)
    hosts.preflight(config, workdir, to_come)
    checkpoint.clear_failed_start(workdir)
    if self.lead:
      run_config.write(workdir, config)
      for signal in self.session.signals.values():
        signal.keep_files(workdir)

  def start(self) -> None:
    """Gives the run its state: that of its newest checkpoint, of other weights, or from scratch."""
    # 4 Start: resume here, or from other weights, or from scratch.
    config, workdir = self.config, self.workdir
    self.session = self.session.load_frozen(workdir)
    self.frozen = self.session.frozen
    if config.data.cache:
      cache.check(self.session)
    self.checkpoints = checkpoint.Checkpoints(workdir, **config.checkpoint)
    placed = sharding.with_shardings(self._abstract_state, self._shardings)
    optional = {'guard': guard.start()}
    self.first_step, state, position = self.checkpoints.restore_newest(placed, optional)
    self.resumed_at = None if state is None else self.first_step
    if state is None:
      logging.info('drawing parameters ...')
      state = xla_profiles.jit_once(self._init, out_shardings=self._shardings)()
      if config.start:
        first = warm_start.load(config, placed.params, self.mesh)
        state = jax.device_put(step_lib.start_from(state, state.params | first), self._shardings)
    else:
      data.resume(position, self.stream, workdir, run_config.plain(config)['data'])
      logging.info(
        'Resuming at step %d of %d in %s.', self.first_step, config.train.num_steps, workdir
      )
    self.state = state

  def prepare(self) -> None:
    """Makes what takes a step and what tells of it; nothing is compiled yet."""
    config, workdir, first_step = self.config, self.workdir, self.first_step
    table = write_overview(workdir, config, self.state.params) if self.lead else ''

    # 5 The step: jitted, and compiled for every bucket and each of its aspects that has examples.
    step = step_lib.by_bucket(self.session, self._step_of_loss)
    self.steps = compilation.Steps(step, self.mesh, self._xla_options)
    boards = writer_lib.boards_of(config, workdir, self.resumed_at) if self.lead else []
    self.writer = writer_lib.Writer(workdir, self.lead, boards, self.resumed_at)
    self.writer.text(first_step, 'run/config', config.to_json(indent=2))
    self.writer.text(first_step, 'run/parameters', table)
    budget = {name: config.train[name] for name in ('max_skipped', 'skip_window')}
    self.skips = guard.Skips(self.state.guard, self.stream, self.writer, **budget)
    self.reported = losses.Losses(config.loss.timestep_range, config.train.levels_every, first_step)
    cadences = {name: config.train[name] for name in ('replay_every', 'norms_every')}
    self.examined = examine.Examined(self.steps, self.writer, **cadences)
    self.profile = profiler.Profile(
      workdir, config.train.profile_at, config.train.profile_steps, self.oversight.takes_profile
    )
    self.progress = progress_lib.Progress(first_step, config.train.num_steps, active=self.lead)

    last_step = min(config.train.stop_at or config.train.num_steps, config.train.num_steps)
    self.last_step = max(last_step, first_step)  # A run that is done stays so.

  def loop(self) -> None:
    """Takes the steps; the newest state is saved, and all is closed, when it is left.

    Raises what `train` does.
    """
    # 6 Loop: save, report and validate one state, then one more step.
    replacements = data.Replacements(self.workdir, self.stream)
    batches = self.stream.iterate(self.first_step)  # Decodes ahead, while the step is compiled.
    self.timing.begin_loop()
    try:
      self._compile()
      self.oversight.stop.hold()
      step_metrics = None
      for step in range(self.first_step, self.last_step + 1):
        self.step = step
        step_metrics, at_end = self._look(step, step_metrics)
        if at_end:
          self.oversight.stop.release()
          break
        self.profile.start_at(step)
        with self.timing.spending('input'):
          bucket, batch = next(batches)
          replacements.record(step)
        self.timing.step(bucket)
        batch = mesh_lib.place_batch(batch, self.mesh)
        self.state, step_metrics = self.examined(step, bucket.name, self.state, self.frozen, batch)
        self.reported.add(bucket.group, step_metrics)
        step_metrics['bucket'] = bucket.name
    except stream_lib.DataError as error:
      self.timing.failed(error)
      raise errors.TrainingError(str(error)) from error
    except Exception as error:
      self._explain(error)
      self.timing.failed(error)
      hosts.leave_pod(error)
      raise
    finally:
      batches.close()
      with self.timing.spending('checkpoint'):
        self.checkpoints.close()
      self.profile.close()
      self.writer.close()
      self.progress.close()

  def _compile(self) -> None:
    """Compiles all programs, if there is a step to take."""
    if self.last_step > self.first_step:
      with self.timing.spending('compile'):
        shapes = {b.name: self.stream.shapes(b) for b in self.stream.buckets}
        more = self.validation.lower(self.state, self.frozen) if compilation.is_kept() else {}
        self.steps.compile(shapes, self.state, self.frozen, more)
        hosts.meet('all have compiled')  # Else those that are early would wait in their first step.
      self.progress.pause()

  def _look(self, step: int, step_metrics: Any) -> tuple[Any, bool]:
    """Saves, reports and validates the state before a step, whichever is due.

    Args:
      step: that is next.
      step_metrics: of the one before; None if there is none.
    Returns:
      (step_metrics, or what was reported of them; whether the run ends here).
    """
    self.profile.stop_at(step, step_metrics)
    at_end = step == self.last_step or self.oversight.stop.requested(step)
    log_due = step % self.config.train.log_every == 0
    save_due = at_end or (step > self.first_step and self.checkpoints.due(step, ask_clock=log_due))
    if step_metrics is not None and (save_due or log_due):
      self.timing.wait_for(step_metrics)
      report = self.reported.report(step)
      step_metrics = report | self.skips.report(step, self.state.guard, step_metrics)
      steps_per_sec = self.progress.report(step, step_metrics)
      timings = self.timing.report(step) | {'steps_per_sec': steps_per_sec}
      num_bad = {'num_bad_samples': self.stream.num_bad}
      self.writer.scalars(step, step_metrics | timings | num_bad)
    if save_due:
      with self.timing.spending('checkpoint'):
        self.checkpoints.save(step, self.state, data.data_position(step, self.stream))
    finished = step == self.config.train.num_steps
    with self.timing.spending('validation'):
      # A run that resumes at first_step was validated there before it stopped.
      if step > self.first_step and self.validation.run(
        step, self.state, self.frozen, self.writer, self.workdir, finished
      ):
        self.progress.pause()
    return step_metrics, at_end

  def end(self) -> int:
    """Waits for the other hosts; returns the exit code."""
    self.timing.event('job_end_time')
    self.checkpoints.check_saved(self.step)
    with self.timing.spending('barrier'):
      hosts.meet('end of the run')
    if self.step < self.last_step:
      logging.warning('Stopped by a signal at step %d, saved. The same command goes on.', self.step)
      return exit_codes.PREEMPTED
    num_steps = self.config.train.num_steps
    logging.info('Saved step %d of %d in %s.', self.step, num_steps, self.workdir)
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
