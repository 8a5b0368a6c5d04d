"""Repeats steps of a run and compares: python -m i2vgen_jax.replay --workdir=DIR [--step=K]

From checkpoint K to the next one. On the devices of the run, the result is that checkpoint to the
bit; if it is not, a device computed wrong numbers, then or now. Nothing in the workdir is changed.
"""

from absl import flags

from i2vgen_jax.process import cli

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('workdir', None, 'Of the run.')
  flags.DEFINE_integer('step', None, 'Checkpoint to start from; default the last but one.')
  flags.DEFINE_bool('distributed', False, 'Together with the other hosts of this job.')
  flags.mark_flags_as_required(['workdir'])
  cli.run(__file__)

import jax
from etils import epath

from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import sharding, xla_profiles
from i2vgen_jax.process import hosts, paths
from i2vgen_jax.stored import checkpoint, run_config, trees
from i2vgen_jax.training import cache, compilation, data, examine, guard
from i2vgen_jax.training import step as step_lib


def main() -> None:
  """Entry point."""
  if flags.FLAGS.distributed:
    hosts.join()
  replay(flags.FLAGS.workdir, flags.FLAGS.step)


def replay(workdir: epath.PathLike, step: int | None = None) -> None:
  """Repeats the steps from a checkpoint to the next one.

  Args:
    workdir: of the run.
    step: of the checkpoint; default the last one but one.

  Raises:
    ValueError: there are no such two checkpoints, or the config or the data do not fit them.
    jax.errors.JaxRuntimeError: DATA_LOSS: the result differs.
  """
  config = run_config.read(workdir)
  directory = paths.absolute(workdir) / 'checkpoints'
  first, last = _interval(sorted(checkpoint.steps(directory)), step, directory)
  position = trees.stored(directory / str(last), last).data  # Of the data of the steps before it.
  config, corpora = data.of_checkpoint(position, config, workdir)
  compilation.use_cache(config, workdir)
  session = session_lib.build(config, workdir).on(mesh_lib.make_mesh(config.mesh))
  stream = data.make_stream(session, corpora)
  abstract, shardings, _, of_loss = step_lib.from_config(session)
  session = session.load_frozen(workdir)
  if config.data.cache:
    cache.check(session)
  placed = sharding.with_shardings(abstract, shardings)
  state = _read(directory, first, placed)
  if 'guard' not in state:  # Of an earlier version.
    state['guard'] = jax.device_put(guard.start(), shardings.guard)
  state = step_lib.TrainState(**state)
  change = data.resume(position, stream, workdir, run_config.plain(config)['data'], writes=False)
  if change and change.step > first:
    raise ValueError(
      f'the data changed at step {change.step}, between the checkpoints {first} and {last}: choose '
      'two with --step that have no change between them.'
    )
  options = xla_profiles.options(
    config.compilation.profile, jax.default_backend(), session.mesh.shape['slice']
  )
  steps = compilation.Steps(step_lib.by_bucket(session, of_loss), session.mesh, options)
  drawn = {stream.bucket_at(number) for number in range(first, last)}
  shapes = {bucket.name: stream.shapes(bucket) for bucket in stream.buckets if bucket in drawn}
  steps.compile(shapes, state, session.frozen)
  batches = stream.iterate(first)
  for _ in range(first, last):
    bucket, batch = next(batches)
    batch = mesh_lib.place_batch(batch, session.mesh)
    state, _ = steps(bucket.name, state, session.frozen, batch)
  batches.close()
  stored = _read(directory, last, placed)
  found = {name: getattr(state, name) for name in stored}
  examine.check_same(found, stored, f'steps {first} to {last} of {workdir}, taken again')


def _interval(steps: list[int], step: int | None, directory: epath.Path) -> tuple[int, int]:
  pairs = dict(zip(steps, steps[1:], strict=False))
  if not pairs or (step is not None and step not in pairs):
    raise ValueError(
      f'{directory} holds checkpoints {steps}: --step must be one of them that another follows.'
    )
  first = steps[-2] if step is None else step
  return first, pairs[first]


def _read(directory: epath.Path, step: int, placed: step_lib.TrainState) -> dict:
  """Fields of the state of a checkpoint."""
  stored = trees.stored(directory / str(step), step)
  return stored.load({name: getattr(placed, name) for name in stored.tree})
