"""Shows whether a demo run has learnt: do sampled shapes move as the caption says, from the image
given?

  python -m i2vgen_jax.evaluate --workdir=DIR [--output=DIR/evaluation]

Continues held-out first frames of the demo corpus, finds the shape in every frame as what differs
from the background, and
reports: share of videos that move in the captioned direction (chance 25 %), PSNR of the first
frame, and share that keep the captioned colour. The same measures on the real clips say what the
yardstick itself can do.
"""

import json

import jax
import numpy as np
from absl import flags, logging
from etils import epath

from data_pipelines import demo_corpus, loader
from i2vgen_jax import cli, components, generation, metrics, streams, video_file
from i2vgen_jax.parallel import mesh as mesh_lib

BATCH = 16
# A shape that moves less than this share of the frame's width stands still: a third of the slowest
# real motion.
MIN_MOTION = 0.12


def main():
  """Samples, measures, writes report.json, contact_sheet.png and the videos; prints the figures."""
  workdir = epath.Path(flags.FLAGS.workdir)
  config, built, mesh, params, frozen = components.load_run(
    workdir, flags.FLAGS.weights, flags.FLAGS.step
  )
  if config.refine.levels:
    raise ValueError(f'{workdir} is a refinement stage: these measures are of a base stage.')
  bucket = streams.sample_bucket(config, streams.make_buckets(config, built))
  batch = loader.held_out(
    dict(config.data.directories), bucket, built.tokenize,
    built.encoders.image_encoder.image_size, flags.FLAGS.num_examples,
    sandbox=config.data.sandbox,
  )  # fmt: skip
  settings = generation.settings(
    config, num_steps=flags.FLAGS.steps, guidance_scale=flags.FLAGS.guidance
  )
  generate = generation.make_generate(built, **settings)
  videos_BFHWC = sample_all(
    built, config, generate, params, frozen, batch, bucket, mesh, flags.FLAGS.seed
  )
  report = {
    'num_examples': len(videos_BFHWC),
    'seed': flags.FLAGS.seed,
    'weights': flags.FLAGS.weights,
    **settings,
    'sampled': measure(videos_BFHWC, batch['video'], batch['caption']),
    'real': measure(batch['video'], batch['video'], batch['caption']),
  }
  output = epath.Path(flags.FLAGS.output or workdir / 'evaluation')
  write_report(output, report, videos_BFHWC, batch, bucket.fps)
  print(json.dumps(report, indent=2))
  sampled = report['sampled']
  print(
    f'{sampled["follows_caption"]:.0%} move as captioned (chance 25 %), first frame '
    f'{sampled["first_frame_psnr_db"]:.1f} dB, {sampled["keeps_color"]:.0%} keep '
    f'the colour: {output}'
  )


def sample_all(built, config, generate, params, frozen, batch, bucket, mesh, seed):
  """uint8 (N, F, H, W, 3): a video for every held-out first frame, BATCH at a time."""
  total = len(batch['video'])
  noise = generation.start_noise(built, seed, total, bucket.frames, bucket.height, bucket.width)
  videos = []
  for start in range(0, total, BATCH):
    # The last batch is filled with its last row: one shape, one compilation.
    rows = np.minimum(np.arange(start, start + BATCH), total - 1)
    part = {name: batch[name][rows] for name in ('video', 'clip_image', 'token_ids', 'fps')}
    part['noise'] = np.asarray(noise)[rows]
    part = mesh_lib.place_batch(part, mesh)
    inputs = {name: part[name] for name in ('clip_image', 'token_ids', 'fps')}
    inputs['image'] = part['video'][:, 0]
    inputs['negative_token_ids'] = built.tokenize([config.negative_prompt])
    _, videos_BFHWC = generate(params, frozen, inputs, part['noise'])
    videos.append(np.asarray(jax.device_get(videos_BFHWC))[: total - start])
    logging.info('%d of %d videos', min(start + BATCH, total), total)
  return np.concatenate(videos)


def measure(videos_BFHWC, references_BFHWC, captions):
  """Figures of uint8 videos against their captions and the clips that gave the first frames."""
  wanted = [demo_corpus.parse_caption(caption) for caption in captions]
  moves = [movement(video) for video in videos_BFHWC]
  colors = [shape_color(video) for video in videos_BFHWC]
  return {
    'follows_caption': float(
      np.mean([direction_of(m) == w['direction'] for m, w in zip(moves, wanted, strict=True)])
    ),
    'stands_still': float(np.mean([direction_of(m) is None for m in moves])),
    'movement_of_width': float(np.mean([np.abs(m).max() for m in moves])),
    'first_frame_psnr_db': float(
      np.mean([psnr(v[0], r[0]) for v, r in zip(videos_BFHWC, references_BFHWC, strict=True)])
    ),
    'keeps_color': float(
      np.mean([color == w['color'] for color, w in zip(colors, wanted, strict=True)])
    ),
  }


def saliency(frame_HWC):
  """(H, W) in [0, 1]: how far each pixel is from the background, the median of the frame's border;
  small values cut."""
  frame = frame_HWC.astype(np.float64)
  border = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
  distance_HW = np.linalg.norm(frame - np.median(border, 0), axis=-1)
  peak = distance_HW.max()
  return np.where(distance_HW > 0.5 * peak, distance_HW / max(peak, 1e-9), 0)


def centroid(frame_HWC):
  """(x, y) of the salient mass, as shares of width and height."""
  weight_HW = saliency(frame_HWC)
  height, width = weight_HW.shape
  total = max(weight_HW.sum(), 1e-9)
  x = (weight_HW.sum(0) * (np.arange(width) + 0.5)).sum() / total / width
  y = (weight_HW.sum(1) * (np.arange(height) + 0.5)).sum() / total / height
  return np.array([x, y])


def movement(video_FHWC):
  """(dx, dy) of the centroid from the first to the last frame, as shares of width and height."""
  return centroid(video_FHWC[-1]) - centroid(video_FHWC[0])


def direction_of(move):
  """'left', 'right', 'up' or 'down' by the larger component; None if it stands still."""
  if np.abs(move).max() < MIN_MOTION:
    return None
  return max(
    demo_corpus.DIRECTIONS, key=lambda name: float(np.dot(move, demo_corpus.DIRECTIONS[name]))
  )


def shape_color(video_FHWC):
  """The demo colour nearest in hue and strength to the shape's mean colour over all frames."""
  means = []
  for frame_HWC in video_FHWC:
    weight_HW = saliency(frame_HWC)
    means.append((frame_HWC * weight_HW[..., None]).sum((0, 1)) / max(weight_HW.sum(), 1e-9))
  mean = np.mean(means, 0)
  return min(
    demo_corpus.COLORS, key=lambda name: np.linalg.norm(mean - np.array(demo_corpus.COLORS[name]))
  )


def psnr(image_HWC, reference_HWC):
  """Peak signal-to-noise ratio of uint8 images, dB."""
  error = np.mean((image_HWC.astype(np.float64) - reference_HWC.astype(np.float64)) ** 2)
  return 10 * np.log10(255**2 / max(error, 1e-9))


def write_report(output, report, videos_BFHWC, batch, fps):
  """report.json, videos/NN.mp4, and a sheet of the first eight: real clip above, sampled below."""
  output.mkdir(parents=True, exist_ok=True)
  captions = dict(enumerate(batch['caption']))
  (output / 'report.json').write_text(json.dumps(report | {'captions': captions}, indent=2))
  for i, video_FHWC in enumerate(videos_BFHWC):
    video_file.write_mp4(output / 'videos' / f'{i:02d}.mp4', video_FHWC, fps)
  pairs = [
    clip for i in range(min(8, len(videos_BFHWC))) for clip in (batch['video'][i], videos_BFHWC[i])
  ]
  metrics.write_png(output / 'contact_sheet.png', metrics.contact_sheet(pairs))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Of the trained run.')
  flags.DEFINE_string('output', None, 'Folder for the report; default WORKDIR/evaluation.')
  flags.DEFINE_integer('num_examples', 64, 'Held-out (image, caption) pairs.')
  flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'Averaged or last weights.')
  flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
  flags.DEFINE_integer('seed', 0, 'Of the start noise.')
  flags.DEFINE_integer('steps', None, "DDIM steps; default the run's.")
  flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
  cli.require('workdir')
  cli.run(main)
