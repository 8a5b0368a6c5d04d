"""Makes a video of an image and a caption.

  python -m i2vgen_jax.sample --workdir=DIR --image=I.png --prompt="a red circle moves left"
  --output=O.mp4

Size, frame rate and sampler settings default to the run's config. The image's own file may have
any size: it is centre-cropped and resized. The same seed gives the same video.
"""

import jax
from absl import flags, logging

from i2vgen_jax import cli, components, generation, streams, video_file


def main():
  """Samples one video and writes it."""
  image = generation.open_image(flags.FLAGS.image)
  config, built, _, params, frozen = components.load_run(
    flags.FLAGS.workdir, flags.FLAGS.weights, flags.FLAGS.step, jax.local_devices()[:1]
  )
  bucket = streams.sample_bucket(config, streams.make_buckets(config, built))
  frames = _given(flags.FLAGS.frames, bucket.frames)
  height, width = _given(flags.FLAGS.height, bucket.height), _given(flags.FLAGS.width, bucket.width)
  fps = _given(flags.FLAGS.fps, bucket.fps)
  generation.check_size(built, frames, height, width)
  generate = generation.make_generate(
    built,
    prediction_type=config.loss.prediction_type,
    num_steps=_given(flags.FLAGS.steps, config.sample.num_steps),
    guidance_scale=_given(flags.FLAGS.guidance, config.sample.guidance_scale),
    eta=_given(flags.FLAGS.eta, config.sample.eta),
    set_alpha_to_one=config.sample.set_alpha_to_one,
    seed=flags.FLAGS.seed,
  )
  inputs = generation.prepare_inputs(
    built,
    [image],
    [flags.FLAGS.prompt],
    height=height,
    width=width,
    fps=fps,
    negative_prompt=_given(flags.FLAGS.negative_prompt, config.negative_prompt),
  )
  noise = generation.start_noise(built, flags.FLAGS.seed, 1, frames, height, width)
  _, video_BFHWC = generate(params, frozen, inputs, noise)
  video_file.write_mp4(flags.FLAGS.output, video_BFHWC[0], fps)
  logging.info('%d frames of %dx%d at %g fps in %s', frames, width, height, fps, flags.FLAGS.output)


def _given(value, default):
  return default if value is None else value


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Of the trained run.')
  flags.DEFINE_string('image', None, 'First frame: any picture file.')
  flags.DEFINE_string('prompt', None, 'What happens in the video.')
  flags.DEFINE_string('negative_prompt', None, "What should not; default the run's.")
  flags.DEFINE_string('output', None, 'mp4 to write.')
  flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'Averaged or last weights.')
  flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
  flags.DEFINE_integer('seed', 0, 'Of the start noise.')
  flags.DEFINE_integer('steps', None, "DDIM steps; default the run's.")
  flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_float('eta', None, "0 deterministic, 1 ancestral; default the run's.")
  flags.DEFINE_integer('frames', None, "Default the run's sampling bucket.")
  flags.DEFINE_float('fps', None, "To condition on and to play at; default the bucket's.")
  flags.DEFINE_integer('height', None, "Pixels; default the bucket's.")
  flags.DEFINE_integer('width', None, "Pixels; default the bucket's.")
  cli.require('workdir', 'image', 'prompt', 'output')
  cli.run(main)
