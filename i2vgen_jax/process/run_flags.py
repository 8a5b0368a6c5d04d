"""The flags by which commands choose trained runs, their weights and their samplers."""

from absl import flags

from i2vgen_jax.process import tables

# The flags belong to the command that calls define, and stand in its --help.
flags.disclaim_key_flags()


def define_base() -> None:
  """Defines the flags of one run."""
  flags.DEFINE_string('workdir', None, 'Workdir of the trained run.')
  flags.DEFINE_enum(
    'weights', 'ema', ['ema', 'raw'], 'Averaged weights, or those of the last step.'
  )
  flags.DEFINE_integer(
    'seed', 0, 'Seed of the noise to start from.', lower_bound=0, upper_bound=2**32 - 1
  )
  flags.DEFINE_integer('steps', None, "Steps of the sampler; default the run's.")


def define() -> None:
  """Defines the flags of a base stage and of a refinement stage, for stage_flags.load."""
  define_base()
  kinds = ', '.join(tables.names('i2vgen_jax/diffusion/sampler.py', 'KINDS'))
  flags.DEFINE_integer('step', None, 'Step of the checkpoint; default the newest.')
  flags.DEFINE_string('sampler', None, f"Sampler: {kinds}; default the run's.")
  flags.DEFINE_float('guidance', None, "Guidance scale; default the run's.")
  flags.DEFINE_string('refine_workdir', None, 'Workdir of a trained refinement stage.')
  flags.DEFINE_integer('refine_steps', None, "Steps of its sampler; default the run's.")
  flags.DEFINE_string('refine_sampler', None, "Its sampler; default the run's.")
  flags.DEFINE_float('refine_guidance', None, "Its guidance scale; default the run's.")
  flags.DEFINE_integer('refine_levels', None, "Noise levels added and removed; default the run's.")
  flags.DEFINE_string('refine_negative_prompt', None, "What it moves away from; default the run's.")
