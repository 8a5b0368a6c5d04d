"""Every program of the training loop is compiled before the first step; what was compiled is kept.

A pod that compiles in the middle of a run stands still for minutes, once per shape of batch. Here
all shapes are compiled at the start, where progress is shown, and the cache in the workdir spares a
restart most of it.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
from absl import logging
from etils import epath

from i2vgen_jax.parallel import mesh as mesh_lib


def use_cache(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> None:
  """Makes JAX keep what it compiles in the folder `compilation.cache`, relative to the workdir.

  '' keeps nothing; JAX_COMPILATION_CACHE_DIR overrides the config. Call it before anything
  compiles. In a bucket, all hosts share what process 0 has compiled.
  """
  # pyrefly: ignore[missing-attribute]  # JAX makes the attributes of its options at import.
  if not config.compilation.cache or jax.config.jax_compilation_cache_dir:
    return
  folder = config.compilation.cache
  if '://' not in folder:
    folder = str(epath.Path(workdir) / folder)
  jax.config.update('jax_compilation_cache_dir', folder)


class Steps:
  """The train step, compiled for each bucket; buckets that differ in nothing share a program.

  Args:
    make_step: name of a bucket -> its jitted step (state, frozen, batch) -> (state, metrics), the
      same object for buckets whose steps differ in shapes alone.
    mesh: of the run.
    options: XLA's flags, of xla_profiles.options.
  """

  def __init__(self, make_step: Callable, mesh: jax.sharding.Mesh, options: dict):
    self._make_step, self._mesh, self._options = make_step, mesh, options
    self._compiled = {}

  def compile(
    self, shapes_of_buckets: Mapping[str, Mapping[str, tuple]], state: Any, frozen: Any
  ) -> None:
    """Compiles for every bucket.

    Args:
      shapes_of_buckets: TrainStream.shapes of each bucket, by name.
      state: a TrainState, as the steps will be given.
      frozen: parameters by network, as the steps will be given.
    """
    programs, rows = {}, mesh_lib.batch_sharding(self._mesh)
    for bucket, shapes in shapes_of_buckets.items():
      batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
      step = self._make_step(bucket)
      key = step, tuple(sorted((name, *map(str, shape)) for name, shape in shapes.items()))
      programs.setdefault(key, (step, batch, []))[2].append(bucket)
    logging.info(
      '%d programs to compile, for %d shapes of batch', len(programs), len(shapes_of_buckets)
    )
    for number, (step, batch, names) in enumerate(programs.values(), start=1):
      buckets = ', '.join(names)
      logging.info('compiling %d of %d: bucket %s ...', number, len(programs), buckets)
      started = time.monotonic()
      compiled = step.lower(state, frozen, batch).compile(compiler_options=self._options)
      self._compiled |= dict.fromkeys(names, compiled)
      logging.info('compiled in %.0f s', time.monotonic() - started)

  def __call__(
    self, bucket: str, state: Any, frozen: Any, batch: Mapping[str, jax.Array]
  ) -> tuple[Any, dict[str, Any]]:
    """(the next state, metrics): one step.

    Args:
      bucket: name of the batch's bucket.
      state: a TrainState; it is donated.
      frozen: parameters by network.
      batch: placed on the mesh.
    """
    return self._compiled[bucket](state, frozen, batch)
