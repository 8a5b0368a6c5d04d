"""Videos of trained stages for held-out clips, in batches of one shape over all devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging

from data_pipelines.stream import stream
from i2vgen_jax import components as components_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.sampling import generate as generate_lib
from i2vgen_jax.training import data

BATCH = 16


@dataclasses.dataclass(frozen=True)
class Run:
  """A trained stage with its weights, and how it samples."""

  config: Any
  components: components_lib.Components
  mesh: jax.sharding.Mesh
  params: Any
  frozen: Any
  bucket: Any
  settings: dict
  generate: Callable

  @property
  def refines(self):
    """Whether it starts from a video."""
    return bool(self.settings['levels'])


def load(workdir, weights='ema', step=None, seed=0, **overrides):
  """A run to sample from; overrides of config.sample that are None are the run's own.

  Raises:
    ValueError: no such run, or settings that cannot be.
  """
  config, built, mesh, params, frozen = components_lib.load_run(workdir, weights, step)
  bucket = data.sample_bucket(config, data.make_buckets(config, built))
  settings = generate_lib.settings(config, **overrides)
  generate = generate_lib.make_generate(built, mesh, seed=seed, **settings)
  return Run(config, built, mesh, params, frozen, bucket, settings, generate)


def held_out(run, count):
  """The first held-out clips of a run at its size; see stream.held_out."""
  encoder = run.components.encoders.image_encoder
  return stream.held_out(
    dict(run.config.data.directories), run.bucket, run.components.tokenize, encoder.image_size,
    count, sandbox=run.config.data.sandbox,
  )  # fmt: skip


def resize(videos_BFHWC, height, width):
  """uint8 -> uint8 of another size, bilinear; BATCH at a time, for memory."""
  function = jax.jit(lambda part: generate_lib.resize(part, height, width))
  parts = range(0, len(videos_BFHWC), BATCH)
  return np.concatenate([np.asarray(function(videos_BFHWC[i : i + BATCH])) for i in parts])


def sample(run, batch, seed, videos_BFHWC=None):
  """uint8 (N, F, H, W, 3): a video for every clip of a batch as `held_out` makes.

  Args:
    run: of a base stage, which goes on from the clips' first frames; or a refinement.
    batch: clips at the run's size with their captions.
    seed: of the start noise, which depends on (seed, row) alone.
    videos_BFHWC: what a refinement refines, of any size.
  """
  total, bucket = len(batch['video']), run.bucket
  noise = generate_lib.start_noise(
    run.components, seed, total, bucket.frames, bucket.height, bucket.width, int(run.refines)
  )
  made = []
  parts = mesh_lib.batch_shards(run.mesh)
  size = -(-min(BATCH, total) // parts) * parts
  for start in range(0, total, size):
    # The last batch is filled with its last row: one shape, one compilation.
    rows = np.minimum(np.arange(start, start + size), total - 1)
    part = {name: batch[name][rows] for name in ('clip_image', 'token_ids', 'fps')}
    part |= dict(image=batch['video'][rows, 0], noise=np.asarray(noise)[rows])
    if run.refines:
      part['video'] = videos_BFHWC[rows]
    inputs = mesh_lib.place_batch(part, run.mesh)
    noise_BFHWC = inputs.pop('noise')
    inputs['negative_token_ids'] = run.components.tokenize([run.config.negative_prompt])
    _, videos = run.generate(run.params, run.frozen, inputs, noise_BFHWC)
    made.append(np.asarray(jax.device_get(videos))[: total - start])
    logging.info('%d of %d videos', min(start + size, total), total)
  return np.concatenate(made)
