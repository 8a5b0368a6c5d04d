"""The flags by which commands choose trained runs, their weights and their samplers."""

from absl import flags

from i2vgen_jax.process import tables

# The flags belong to the command that calls define, and stand in its --help.
flags.disclaim_key_flags()


def define_base(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of one run."""
  into = dict(flag_values=values)
  flags.DEFINE_string('workdir', None, 'Workdir of the trained run.', **into)
  flags.DEFINE_enum(
    'weights', 'ema', ['ema', 'raw'], 'Averaged weights, or those of the last step.', **into
  )
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the noise to start from.', lower_bound=0, upper_bound=2**32 - 1, **into
  )
  flags.DEFINE_integer('steps', None, "Steps of the sampler; default the run's.", **into)


def define(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of a base stage and of a refinement stage, for stage_flags.load."""
  define_base(values)
  kinds = ', '.join(tables.names('i2vgen_jax/diffusion/sampler.py', 'KINDS'))
  for name, kind, text in (
    ('step', 'integer', 'Step of the checkpoint; default the newest.'),
    ('sampler', 'string', f"Sampler: {kinds}; default the run's."),
    ('guidance', 'float', "Guidance scale; default the run's."),
    ('refine_workdir', 'string', 'Workdir of a trained refinement stage.'),
    ('refine_steps', 'integer', "Steps of its sampler; default the run's."),
    ('refine_sampler', 'string', "Its sampler; default the run's."),
    ('refine_guidance', 'float', "Its guidance scale; default the run's."),
    ('refine_levels', 'integer', "Noise levels added and removed; default the run's."),
    ('refine_negative_prompt', 'string', "What it moves away from; default the run's."),
  ):
    _DEFINE[kind](name, None, text, flag_values=values)


def define_request(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the flags of `sample`: those of `define`, and what to make a video of, and how."""
  define(values)
  spacings = ', '.join(tables.names('i2vgen_jax/diffusion/sampler.py', 'SPACINGS'))
  for name, kind, text in (
    ('image', 'string', 'First frame: any picture file.'),
    ('video', 'string', 'Video to refine; --workdir is then a refinement stage.'),
    ('prompt', 'string', 'What happens in the video; for models that read captions.'),
    *((n, 'string', t) for n, t in tables.of_classes('i2vgen_jax/conditions', 'flags').items()),
    ('list', 'string', 'List of image|||caption lines, not --image and --prompt.'),
    ('negative_prompt', 'string', "What to move away from; default the run's."),
    ('output', 'string', '.mp4, .gif or .webp; with --list the folder of mp4s to write.'),
    ('spacing', 'string', f"Spacing of timesteps: {spacings}; default the run's."),
    ('guidance_rescale', 'float', "Guidance rescaling, 0 to 1; default the run's."),
    ('eta', 'float', "Noise of DDIM: 0 none, 1 ancestral; default the run's."),
    ('frames', 'integer', "Frames of the video; default the sampling bucket's."),
    ('fps', 'float', "Frames per second; default the sampling bucket's."),
    ('height', 'integer', "Pixels; default the bucket's, at the image's aspect."),
    ('width', 'integer', "Pixels; default the bucket's, at the image's aspect."),
    ('refine_height', 'integer', "Refined height; default its sampling bucket's."),
    ('refine_width', 'integer', "Refined width; default its sampling bucket's."),
  ):
    _DEFINE[kind](name, None, text, flag_values=values)
  into = dict(flag_values=values)
  flags.DEFINE_multi_string(
    'condition', [], 'NAME=VALUE for a condition of your own; repeatable.', **into
  )
  flags.DEFINE_string(
    'part', '0/1', 'I/N: every Nth line of the list only, from the Ith on.', **into
  )


_DEFINE = {
  'string': flags.DEFINE_string,
  'integer': flags.DEFINE_integer,
  'float': flags.DEFINE_float,
}
