"""Every program of the training loop is compiled before the first step; what was compiled is kept.

A pod that compiles in the middle of a run stands still for minutes, once per shape of batch. Here
all shapes are compiled at the start, where progress is shown, and the cache in the workdir spares a
restart most of it.
"""

import time

import jax
from absl import logging
from etils import epath

from i2vgen_jax.parallel import mesh as mesh_lib


def use_cache(config, workdir):
  """Makes JAX keep what it compiles in the folder `compilation.cache`, relative to the workdir.

  '' keeps nothing; JAX_COMPILATION_CACHE_DIR comes before the config. Called before anything
  compiles. In a bucket, all hosts share what process 0 has compiled.
  """
  if not config.compilation.cache or jax.config.jax_compilation_cache_dir:
    return
  folder = config.compilation.cache
  if '://' not in folder:
    folder = str(epath.Path(workdir) / folder)
  jax.config.update('jax_compilation_cache_dir', folder)


class Steps:
  """The train step, compiled once for each shape of batch.

  Args:
    step_function: jitted (state, frozen, batch) -> (state, metrics).
    mesh: of the run.
    options: XLA's flags, of xla_profiles.py.
  """

  def __init__(self, step_function, mesh, options):
    self._step_function, self._mesh, self._options = step_function, mesh, options
    self._compiled = {}

  def compile(self, shapes_of_buckets, state, frozen):
    """Compiles for every bucket; those of one shape share a program.

    Args:
      shapes_of_buckets: dict of names to what TrainStream.shapes says of each.
      state, frozen: as they will be given.
    """
    by_shape, rows = {}, mesh_lib.batch_sharding(self._mesh)
    for bucket, shapes in shapes_of_buckets.items():
      batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
      by_shape.setdefault(_key(batch), (batch, []))[1].append(bucket)
    for number, (key, (batch, names)) in enumerate(by_shape.items(), start=1):
      buckets = ', '.join(names)
      logging.info('compiling %d of %d: bucket %s ...', number, len(by_shape), buckets)
      started = time.monotonic()
      lowered = self._step_function.lower(state, frozen, batch)
      self._compiled[key] = lowered.compile(compiler_options=self._options)
      logging.info('compiled in %.0f s', time.monotonic() - started)

  def __call__(self, state, frozen, batch):
    """One step of a batch of one of the compiled shapes."""
    return self._compiled[_key(batch)](state, frozen, batch)


def _key(batch):
  return tuple(sorted((name, leaf.shape, str(leaf.dtype)) for name, leaf in batch.items()))
