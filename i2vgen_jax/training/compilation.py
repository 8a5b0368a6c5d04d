"""Every program of the training loop is compiled before the first step; what was compiled is kept.

A pod that compiles in the middle of a run stands still for minutes, once per shape of batch and for
what validates. Here all are compiled at the start, side by side, where progress is shown, and the
cache in the workdir spares a restart, or a run after `precompile`, most of it.
"""

import concurrent.futures
import os
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


def is_kept() -> bool:
  """Whether a program that is compiled here is found by whoever compiles it again."""
  # pyrefly: ignore[missing-attribute]  # JAX makes the attributes of its options at import.
  return bool(jax.config.jax_compilation_cache_dir)


Program = tuple[jax.stages.Lowered, Mapping[str, Any]]  # And XLA's flags for it.
# What XLA takes to compile a train step of base for TPUs, in bytes of the host's memory.
BYTES_PER_PROGRAM = 24 * 2**30


def side_by_side(programs: Mapping[str, Program], jobs: int = 0) -> dict[str, jax.stages.Compiled]:
  """Compiles several programs at a time, in threads: XLA needs no lock of Python.

  Args:
    programs: by what they are called in the log.
    jobs: at a time; 0 takes as many as the host's memory has room for.
  """
  if not jobs:
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    jobs = max(1, memory // BYTES_PER_PROGRAM)
  started = time.monotonic()

  def compile_one(item: tuple[int, tuple[str, Program]]) -> jax.stages.Compiled:
    number, (name, (lowered, options)) = item
    logging.info('compiling %d of %d: %s ...', number, len(programs), name)
    compiled = lowered.compile(compiler_options=dict(options) or None)
    logging.info('compiled %s; %.0f s since the first began', name, time.monotonic() - started)
    return compiled

  with concurrent.futures.ThreadPoolExecutor(min(jobs, len(programs) or 1)) as pool:
    made = pool.map(compile_one, enumerate(programs.items(), start=1))
    return dict(zip(programs, made, strict=True))


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
    self,
    shapes_of_buckets: Mapping[str, Mapping[str, tuple]],
    state: Any,
    frozen: Any,
    more: Mapping[str, Program] | None = None,
  ) -> None:
    """Compiles for every bucket.

    Args:
      shapes_of_buckets: TrainStream.shapes of each bucket, by name.
      state: a TrainState, as the steps will be given.
      frozen: parameters by network, as the steps will be given.
      more: programs that are compiled beside them, for those that will call them.
    """
    programs, names = self.lower(shapes_of_buckets, state, frozen)
    compiled = side_by_side(programs | dict(more or {}))
    for program, buckets in names.items():
      self._compiled |= dict.fromkeys(buckets, compiled[program])

  def lower(
    self, shapes_of_buckets: Mapping[str, Mapping[str, tuple]], state: Any, frozen: Any
  ) -> tuple[dict[str, Program], dict[str, list[str]]]:
    """(programs, the buckets of each), by what a program is called; arguments as of `compile`."""
    programs, rows = {}, mesh_lib.batch_sharding(self._mesh)
    for bucket, shapes in shapes_of_buckets.items():
      batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
      step = self._make_step(bucket)
      key = step, tuple(sorted((name, *map(str, shape)) for name, shape in shapes.items()))
      programs.setdefault(key, (step, batch, []))[2].append(bucket)
    logging.info(
      '%d programs to compile, for %d shapes of batch', len(programs), len(shapes_of_buckets)
    )
    lowered, names = {}, {}
    for step, batch, buckets in programs.values():
      name = f'bucket {", ".join(buckets)}'
      lowered[name], names[name] = (step.lower(state, frozen, batch), self._options), buckets
    return lowered, names

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
