"""Every program of the training loop is compiled before the first step; what was compiled is kept.

A pod that compiles in the middle of a run stands still for minutes, once per shape of batch. Here
all shapes are compiled at the start, where progress is shown, and the cache in the workdir spares a
restart most of it.
"""

import time
from collections.abc import Callable

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
  """The train step, compiled for each bucket; those that differ in nothing share a program.

  Args:
    make_step: name of a bucket -> (what its step depends on besides the shapes, hashable; the
      jitted (state, frozen, batch) -> (state, metrics)).
    mesh: of the run.
    options: XLA's flags, of xla_profiles.py.
  """

  def __init__(self, make_step: Callable, mesh: jax.sharding.Mesh, options: dict):
    self._make_step, self._mesh, self._options = make_step, mesh, options
    self._compiled = {}

  def compile(self, shapes_of_buckets, state, frozen):
    """Compiles for every bucket.

    Args:
      shapes_of_buckets: dict of names to what TrainStream.shapes says of each.
      state, frozen: as they will be given.
    """
    programs, rows = {}, mesh_lib.batch_sharding(self._mesh)
    for bucket, shapes in shapes_of_buckets.items():
      batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
      depends, step = self._make_step(bucket)
      key = depends, tuple(sorted((name, *map(str, shape)) for name, shape in shapes.items()))
      programs.setdefault(key, (step, batch, []))[2].append(bucket)
    for number, (step, batch, names) in enumerate(programs.values(), start=1):
      buckets = ', '.join(names)
      logging.info('compiling %d of %d: bucket %s ...', number, len(programs), buckets)
      started = time.monotonic()
      compiled = step.lower(state, frozen, batch).compile(compiler_options=self._options)
      self._compiled |= dict.fromkeys(names, compiled)
      logging.info('compiled in %.0f s', time.monotonic() - started)

  def __call__(self, bucket, state, frozen, batch):
    """One step of a batch of the bucket of that name."""
    return self._compiled[bucket](state, frozen, batch)
