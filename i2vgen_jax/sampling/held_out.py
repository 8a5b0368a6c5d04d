"""Held-out clips, and what trained stages make of them, in batches of one shape on all devices."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from data_pipelines import user_errors
from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.corpus import reader
from data_pipelines.stream import stream
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import padding
from i2vgen_jax.sampling import generate, stages
from i2vgen_jax.stored import run_config

BATCH = 16


def clips(
  session: session_lib.Session,
  bucket: buckets_lib.Bucket,
  num_examples: int,
  others: Sequence[session_lib.Session] = (),
  corpus: epath.PathLike | None = None,
) -> dict[str, Any]:
  """The first held-out clips that fill a bucket; see stream.held_out.

  Args:
    session: of the run whose corpora are read.
    bucket: gives the clips' shape.
    num_examples: how many are wanted.
    others: runs that get the same clips, with the fields that their signals read.
    corpus: folder of an ingested corpus that is read in place of the run's.
  """
  data = session.config.data
  fields = {field.name: field for other in (session, *others) for field in other.fields()}
  directories = corpus or dict(data.directories)
  return stream.held_out(
    directories, bucket, tuple(fields.values()), num_examples, sandbox=data.sandbox
  )


def check(workdir: epath.PathLike, corpus: epath.PathLike | None = None) -> None:
  """Raises ValueError, soon, if `clips` would find no corpus.

  Args:
    workdir: of the run.
    corpus: as of `clips`.
  """
  if corpus:
    reader.Corpora(corpus, 'validation')
    return
  directories = dict(run_config.read(workdir).data.directories)
  try:
    reader.Corpora(directories, 'validation')
  except (ValueError, OSError) as error:
    names = ', '.join(map(str, directories.values()))
    raise ValueError(
      f'{workdir} was trained on {names}, whose held-out clips cannot be read here: --corpus=DIR '
      f'takes those of another ingested corpus ({user_errors.reason(error)}).'
    ) from error


def resize(videos_BFHWC: np.ndarray, height: int, width: int) -> np.ndarray:
  """uint8 -> uint8 of another size, bilinear; BATCH at a time, for memory.

  Args:
    videos_BFHWC: of any size.
    height: pixels.
    width: pixels.
  """
  function = jax.jit(lambda part: generate.resize(part, height, width))
  parts = range(0, len(videos_BFHWC), BATCH)
  return np.concatenate([np.asarray(function(videos_BFHWC[i : i + BATCH])) for i in parts])


def parts(arrays: Any, total: int, size: int, mesh: jax.sharding.Mesh) -> Iterator[tuple[Any, int]]:
  """(the arrays' rows on the mesh, how many of them count) of steps of one size.

  Args:
    arrays: tree of arrays that every host has whole.
    total: their first rows, which are taken.
    size: rows of a step, rounded up to what the mesh can split.
    mesh: to put them on.
  """
  host_index, host_count = mesh_lib.batch_reader(mesh)
  for rows, count in padding.steps_of_rows(total, size, mesh_lib.batch_shards(mesh)):
    local = rows.reshape(host_count, -1)[host_index]
    yield mesh_lib.place_batch(jax.tree.map(operator.itemgetter(local), arrays), mesh), count


def sample(
  stage: stages.Stage,
  batch: Mapping[str, Any],
  seed: int,
  videos_BFHWC: np.ndarray | None = None,
) -> np.ndarray:
  """uint8 (N, F, H, W, 3): a video for every clip of a batch as `clips` makes.

  Args:
    stage: a base stage, which goes on from the clips' first frames; or a refinement.
    batch: clips at the stage's size with their captions.
    seed: of the start noise, which depends on (seed, row) alone.
    videos_BFHWC: what a refinement refines, of any size.
  """
  total = len(batch['video'])
  signals = jax.tree.map(np.asarray, stage.session.of_batch(batch))
  arrays = signals, np.asarray(stage.noise(seed, total)), videos_BFHWC if stage.refines else None
  made = []
  with stage.steps.shown(-(-total // BATCH)):
    for part, count in parts(arrays, total, min(BATCH, total), stage.session.mesh):
      made.append(np.asarray(jax.device_get(stage(*part)))[:count])
      stage.steps.end_run()
  logging.info('%d videos sampled', total)
  return np.concatenate(made)
