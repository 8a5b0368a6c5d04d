"""Names the commands, for whoever gives none: python -m i2vgen_jax."""

import sys

from data_pipelines import user_errors

COMMANDS = (
  'train finetune status replay sample studio evaluate ablate export load precompute precompile '
  'preflight plan score'
)


def main(arguments: list[str]) -> int:
  """Prints the commands if that is what is asked for, else fails with them; the exit code."""
  how = f'python -m i2vgen_jax.COMMAND --help, of {COMMANDS}; for corpora python -m data_pipelines'
  if arguments and arguments[0] in ('-h', '-help', '--help', '--helpfull', '--helpshort'):
    print(f'{how} --help.')
  else:
    user_errors.fail(f'python -m i2vgen_jax is no command: {how} --help.')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
