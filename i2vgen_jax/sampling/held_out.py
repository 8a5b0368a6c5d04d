"""Held-out clips, and what trained stages make of them, in batches of one shape on all devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from data_pipelines.corpus import buckets as buckets_lib
from data_pipelines.stream import stream
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.parallel import padding
from i2vgen_jax.sampling import generate, stages

BATCH = 16


def clips(
  session: session_lib.Session,
  bucket: buckets_lib.Bucket,
  num_examples: int,
  others: Sequence[session_lib.Session] = (),
) -> dict[str, Any]:
  """The first held-out clips that fill a bucket; see stream.held_out.

  Args:
    session: of the run whose corpora are read.
    bucket: gives the clips' shape.
    num_examples: how many are wanted.
    others: runs that get the same clips, with the fields that their signals read.
  """
  data = session.config.data
  fields = {field.name: field for other in (session, *others) for field in other.fields()}
  return stream.held_out(
    dict(data.directories), bucket, tuple(fields.values()), num_examples, sandbox=data.sandbox
  )


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
  total, mesh = len(batch['video']), stage.session.mesh
  noise = np.asarray(stage.noise(seed, total))
  signals = jax.tree.map(np.asarray, stage.session.of_batch(batch))
  made = []
  for rows, count in padding.steps_of_rows(total, min(BATCH, total), mesh_lib.batch_shards(mesh)):
    part = dict(signals=signals, noise=noise)
    if stage.refines:
      part['video'] = videos_BFHWC
    placed = mesh_lib.place_batch(jax.tree.map(lambda values, r=rows: values[r], part), mesh)
    videos = stage(placed['signals'], placed['noise'], placed.get('video'))
    made.append(np.asarray(jax.device_get(videos))[:count])
    logging.info('%d of %d videos', rows[-1] + 1, total)
  return np.concatenate(made)
