"""--config, of every command that takes one: a Python file, and an argument for its get_config."""

import os
from typing import Any

from absl import flags
from ml_collections.config_flags import config_flags

from i2vgen_jax.process import paths

# The flag belongs to the command that calls define, and stands in its --help.
flags.disclaim_key_flags()


def find(path: str) -> str:
  """Where a config file lies, from any folder: the path itself, else that of an installed config.

  `configs/i2v.py` names our own config when the current folder has no such file.

  Args:
    path: a Python file, without the `:arg` that may follow it on the command line.
  Returns:
    A path; the given one when there is no such file at all.
  """
  installed = paths.ROOT / path
  is_config = paths.ROOT / 'configs' in installed.parents and installed.exists()
  return str(installed) if is_config and not os.path.exists(path) else path


class _Parser(config_flags.ConfigFileFlagParser):
  """Loads PATH[:ARG] from where `find` says."""

  def parse(self, path: str) -> Any:
    file, colon, argument = path.partition(':')
    return super().parse(f'{find(file)}{colon}{argument}')


def define() -> None:
  """Defines --config; `--config.a.b=value` overrides a field."""
  config_flags.DEFINE_config_file(
    'config', None, 'configs/<name>.py[:arg]; override with --config.a.b=value.', lock_config=True
  )
  flags.FLAGS['config'].parser = _Parser(name='config', lock_config=True)
