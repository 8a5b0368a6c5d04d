"""Names the commands, for whoever gives none: python -m i2vgen_jax."""

from data_pipelines import user_errors

COMMANDS = (
  'train finetune status replay sample evaluate ablate export load precompute precompile preflight '
  'plan score'
)

user_errors.fail(
  f'python -m i2vgen_jax is no command: python -m i2vgen_jax.COMMAND --help, of {COMMANDS}; '
  'for corpora python -m data_pipelines --help.'
)
