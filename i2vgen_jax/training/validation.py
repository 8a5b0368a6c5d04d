"""Validates a run while it trains: loss on held-out clips at fixed (timestep, noise), and sample
videos.

Both use the EMA weights and depend on the seed alone, so that curves of different runs compare.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from data_pipelines.corpus import buckets as buckets_lib
from i2vgen_jax import session as session_lib
from i2vgen_jax.parallel import mesh as mesh_lib
from i2vgen_jax.process import hosts
from i2vgen_jax.sampling import generate, held_out, sheets, video_file
from i2vgen_jax.training import compilation, objective
from i2vgen_jax.training import step as step_lib
from i2vgen_jax.training import writer as writer_lib


class Validation:
  """Runs every `train.eval_every` and `train.sample_every` steps, and at a first look; never where
  one of the two, or how many clips it is of, is 0.

  Args:
    session: of the run.
    bucket: gives the size of the held-out videos.
  """

  def __init__(self, session: session_lib.Session, bucket: buckets_lib.Bucket):
    config = session.config
    self._session, self._bucket = session, bucket
    self._train, self._mesh = config.train, session.mesh
    num_eval, num_samples = self._train.num_eval_examples, self._train.num_sample_videos
    self._eval_every = self._train.eval_every if num_eval else 0
    self._sample_every = self._train.sample_every if num_samples else 0
    if not (self._eval_every or self._sample_every):
      return
    most = max(num_eval if self._eval_every else 0, num_samples if self._sample_every else 0)
    batch = held_out.clips(session, bucket, most)
    self._captions = batch.pop('caption')
    batch.pop('key')
    self._num_eval = min(num_eval, len(self._captions))
    self._num_samples = min(num_samples, len(self._captions))
    self._batch = batch
    self._eval_loss = jax.jit(
      mesh_lib.within(self._mesh, objective.make_eval_loss(session, config.loss.timestep_range)),
      out_shardings=mesh_lib.replicated(self._mesh),
    )
    self._generate = generate.make_generate(session, **generate.settings(config))
    # What a refinement stage refines here: the held-out videos at the base stage's size.
    self._shrink = None
    if config.refine.levels:
      height, width = small_size(config.refine.height, config.refine.width, bucket)
      self._shrink = jax.jit(lambda video: generate.resize(video, height, width))
    self._negative = session.negative(config.negative_prompt)

  def lower(self, state: step_lib.TrainState, frozen: Any) -> dict[str, compilation.Program]:
    """The programs that `run` will call, by name; what is compiled of them, it finds.

    Args:
      state: a TrainState, or its ShapeDtypeStructs with shardings.
      frozen: parameters by network, or their ShapeDtypeStructs.
    """
    programs: dict[str, compilation.Program] = {}
    if self._eval_every:
      size = min(self._num_eval, self._bucket.batch_size)
      part = self._abstract(self._batch, size)
      lowered = self._eval_loss.lower(state.averaged, frozen, part, state.seed, state.step)
      programs['validation'] = lowered, {}
    if self._sample_every:
      part = self._abstract(self._batch, self._num_samples)
      bucket, count = self._bucket, part['video'].shape[0]
      noise = self._session.unet_inputs(bucket.frames, bucket.height, bucket.width, count)[0]
      video = jax.eval_shape(self._shrink, part['video']) if self._shrink else None
      signals = jax.eval_shape(self._session.of_batch, part)
      signals, video, noise = jax.tree.map(self._placed, (signals, video, noise))
      inputs = generate.Inputs(signals, self._negative, video, state.step)
      programs['sampling'] = self._generate.lower(state.averaged, frozen, inputs, noise), {}
    return programs

  def _placed(self, leaf: Any) -> jax.ShapeDtypeStruct:
    rows = mesh_lib.batch_sharding(self._mesh)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows)

  def _abstract(self, batch: Any, size: int) -> Any:
    """The batch's arrays as ShapeDtypeStructs of what held_out.parts places."""
    shards = mesh_lib.batch_shards(self._mesh)
    rows = -(-size // shards) * shards
    shapes = {name: (rows, *array.shape[1:]) for name, array in batch.items()}
    return {
      name: self._placed(jax.ShapeDtypeStruct(shapes[name], array.dtype))
      for name, array in batch.items()
    }

  def loss(self, state: step_lib.TrainState, frozen: Any) -> float:
    """Mean loss of the held-out videos."""
    losses = []
    total, size = self._num_eval, min(self._num_eval, self._bucket.batch_size)
    for part, count in held_out.parts(self._batch, total, size, self._mesh):
      found = self._eval_loss(state.averaged, frozen, part, state.seed, state.step)
      losses.append(np.asarray(found)[:count])
    return float(np.concatenate(losses).mean())

  def sample(
    self, state: step_lib.TrainState, frozen: Any, seed: int = 0
  ) -> tuple[Sequence[str], np.ndarray]:
    """(captions, uint8 videos (B, F, H, W, 3)), one for each of the first held-out clips.

    A base stage goes on from their first frames; a refinement stage restores the clips, which are
    made smaller for it.

    Args:
      state: whose averaged weights sample.
      frozen: parameters by network.
      seed: of the start noise.
    """
    count = self._num_samples
    [(part, _)] = held_out.parts(self._batch, count, count, self._mesh)
    bucket = self._bucket
    size = bucket.frames, bucket.height, bucket.width
    noise = generate.start_noise(self._session, seed, part['video'].shape[0], size)
    video = self._shrink(part['video']) if self._shrink else None
    inputs = generate.Inputs(self._session.of_batch(part), self._negative, video, state.step)
    noise = jax.device_put(noise, mesh_lib.batch_sharding(self._mesh))
    _, videos_BFHWC = self._generate(state.averaged, frozen, inputs, noise)
    videos_BFHWC = multihost_utils.process_allgather(videos_BFHWC, tiled=True)  # On every host.
    return self._captions[:count], videos_BFHWC[:count]

  def run(
    self,
    step: int,
    state: step_lib.TrainState,
    frozen: Any,
    writer: writer_lib.Writer,
    workdir: epath.PathLike,
    at_end: bool = False,
  ) -> bool:
    """Evaluates and samples if due; returns whether it did anything.

    Args:
      step: updates done.
      state: whose averaged weights are shown.
      frozen: parameters by network.
      writer: gets the figures and videos.
      workdir: of the run; videos go to workdir/samples.
      at_end: evaluate and sample, unless the config never does.
    """
    evaluates, samples = (
      bool(every) and (at_end or step == self._train.first_look or step % every == 0) and step > 0
      for every in (self._eval_every, self._sample_every)
    )
    if evaluates:
      writer.scalars(step, {'eval_loss': self.loss(state, frozen)})
    if samples:
      captions, videos_BFHWC = self.sample(state, frozen)
      if hosts.is_lead():
        folder = epath.Path(workdir) / 'samples' / f'{step:08d}'
        self._write_samples(step, captions, videos_BFHWC, writer, folder)
        logging.info('step %d: %d sample videos in %s', step, len(captions), folder)
    return evaluates or samples

  def _write_samples(
    self,
    step: int,
    captions: Sequence[str],
    videos_BFHWC: np.ndarray,
    writer: writer_lib.Writer,
    folder: epath.Path,
  ) -> None:
    """Writes NN.mp4 beside the real clip, its first frame NN.png and caption NN.txt; and all frames
    of all on one sheet, each sampled video below the real one."""
    real_BFHWC = self._batch['video'][: len(videos_BFHWC)]
    for i, (caption, video_FHWC) in enumerate(zip(captions, videos_BFHWC, strict=True)):
      video_file.write_mp4(folder / f'{i:02d}.mp4', video_FHWC, self._bucket.fps)
      video_file.write_mp4(folder / f'{i:02d}_real.mp4', real_BFHWC[i], self._bucket.fps)
      sheets.write_png(folder / f'{i:02d}.png', real_BFHWC[i, 0])
      (folder / f'{i:02d}.txt').write_text(caption + '\n')
      both_FHWC = sheets.side_by_side(dict(real=real_BFHWC[i], sampled=video_FHWC), caption)
      writer.video(step, f'samples/{i:02d}', both_FHWC, self._bucket.fps)
    pairs, sample = dict(real=real_BFHWC, sampled=videos_BFHWC), self._session.config.sample
    heading = (
      f'step {step:,}, averaged weights, seed 0, {sample.num_steps} steps of {sample.sampler}, '
      f'guidance {sample.guidance_scale:g}'
    )
    sheet_HWC = sheets.contact_sheet(pairs, captions, self._bucket.fps, heading)
    sheets.write_png(folder / 'contact_sheet.png', sheet_HWC)
    writer.image(step, 'samples/contact_sheet', sheet_HWC)


def small_size(height: int, width: int, bucket: buckets_lib.Bucket) -> tuple[int, int]:
  """(height, width) of what a refinement stage refines: with aspects, as many pixels at the
  bucket's.

  Args:
    height: of the config's refine block, pixels.
    width: likewise.
    bucket: of the refined videos.
  """
  if bucket.group == bucket.name:
    return height, width
  aspect = (bucket.height / bucket.width) ** 0.5
  sides = (math.sqrt(height * width) * factor for factor in (aspect, 1 / aspect))
  multiple = buckets_lib.SIZE_MULTIPLE
  height, width = (max(multiple, multiple * round(side / multiple)) for side in sides)
  return height, width
