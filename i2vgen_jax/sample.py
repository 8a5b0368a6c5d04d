"""Makes a video of an image and a caption.

  python -m i2vgen_jax.sample --workdir=DIR --image=I.png --prompt="a red circle moves left" --output=O.mp4

Size, frame rate and sampler settings default to the run's config. The image's own file may have any size: it is
centre-cropped and resized. The same seed gives the same video.
"""

from absl import flags, logging

from i2vgen_jax import cli, components, generation, video_file
from i2vgen_jax import train as train_lib

_WORKDIR = flags.DEFINE_string('workdir', None, 'Of the trained run.')
_IMAGE = flags.DEFINE_string('image', None, 'First frame: any picture file.')
_PROMPT = flags.DEFINE_string('prompt', None, 'What happens in the video.')
_NEGATIVE = flags.DEFINE_string('negative_prompt', None, "What should not; default the run's.")
_OUTPUT = flags.DEFINE_string('output', None, 'mp4 to write.')
_WEIGHTS = flags.DEFINE_enum('weights', 'ema', ['ema', 'raw'], 'Averaged or last weights.')
_STEP = flags.DEFINE_integer('step', None, 'Checkpoint; default the newest.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of the start noise.')
_STEPS = flags.DEFINE_integer('steps', None, "DDIM steps; default the run's.")
_GUIDANCE = flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
_ETA = flags.DEFINE_float('eta', None, "0 deterministic, 1 ancestral; default the run's.")
_FRAMES = flags.DEFINE_integer('frames', None, "Default the run's sampling bucket.")
_FPS = flags.DEFINE_float('fps', None, "To condition on and to play at; default the bucket's.")
_HEIGHT = flags.DEFINE_integer('height', None, "Pixels; default the bucket's.")
_WIDTH = flags.DEFINE_integer('width', None, "Pixels; default the bucket's.")


def main():
  """Samples one video and writes it."""
  logging.set_verbosity(logging.INFO)
  image = generation.open_image(_IMAGE.value)
  config, built, _, params, frozen = components.load_run(
    _WORKDIR.value, _WEIGHTS.value, _STEP.value
  )
  bucket = train_lib.sample_bucket(config, train_lib.make_buckets(config, built))
  frames = _given(_FRAMES.value, bucket.frames)
  height, width = _given(_HEIGHT.value, bucket.height), _given(_WIDTH.value, bucket.width)
  fps = _given(_FPS.value, bucket.fps)
  generation.check_size(built, frames, height, width)
  generate = generation.make_generate(
    built,
    prediction_type=config.loss.prediction_type,
    num_steps=_given(_STEPS.value, config.sample.num_steps),
    guidance_scale=_given(_GUIDANCE.value, config.sample.guidance_scale),
    eta=_given(_ETA.value, config.sample.eta),
    set_alpha_to_one=config.sample.set_alpha_to_one,
    seed=_SEED.value,
  )
  inputs = generation.prepare_inputs(
    built,
    [image],
    [_PROMPT.value],
    height=height,
    width=width,
    fps=fps,
    negative_prompt=_given(_NEGATIVE.value, config.negative_prompt),
  )
  noise = generation.start_noise(built, _SEED.value, 1, frames, height, width)
  _, video_BFHWC = generate(params, frozen, inputs, noise)
  video_file.write_mp4(_OUTPUT.value, video_BFHWC[0], fps)
  logging.info('%d frames of %dx%d at %g fps in %s', frames, width, height, fps, _OUTPUT.value)


def _given(value, default):
  return default if value is None else value


if __name__ == '__main__':
  cli.require('workdir', 'image', 'prompt', 'output')
  cli.run(main)
