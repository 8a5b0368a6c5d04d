"""--config, of every command that takes one: a Python file, and an argument for its get_config.

What is wrong with an override of a field is said here, by the field's whole name.
"""

import ast
import collections
import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections.config_flags import config_flags

from i2vgen_jax.process import paths

# Blocks whose entries are the user's: a dict given for one replaces all of them.
OPEN = (
  'data.directories', 'data.buckets', 'data.sources', 'condition_dropout.buckets', 'mesh',
)  # fmt: skip
# Tuples of dicts, by a field of these.
OF_DICTS = {'optimizer.groups': 'match', 'unet.conditioners': 'kind'}
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


def shipped() -> list[str]:
  """The configs that come with the package, as `configs/<name>.py`."""
  makes = re.compile(r'^(def )?get_config\b', re.MULTILINE)
  files = sorted((paths.ROOT / 'configs').glob('*.py'))
  return [f'configs/{file.name}' for file in files if makes.search(file.read_text())]


def load(path: str) -> Any:
  """What the get_config of PATH[:ARG] returns; raises flags.Error if there is no such file."""
  file, colon, argument = path.partition(':')
  found = find(file)
  if not os.path.isfile(found):
    raise flags.Error(f'--config={file} is no file{_nearest(file, shipped())}')
  if not file.endswith('.py'):
    raise flags.Error(f'--config={file} must be a Python file, such as configs/base.py.')
  parser = config_flags.ConfigFileFlagParser(name='config', lock_config=True)
  return parser.parse(f'{found}{colon}{argument}')


def check_override(config: ml_collections.ConfigDict, name: str, text: str | None = None) -> None:
  """Checks `--config.NAME=TEXT`, before it is done.

  Args:
    config: without it.
    name: of the field, with dots between its parts.
    text: its value; None checks the name alone.

  Raises:
    ValueError: there is no such field; or the value replaces a block by a part of it, or numbers
      by what is none.
  """
  block, parts = config, name.split('.')
  for place, part in enumerate(parts):
    path = '.'.join(parts[:place])
    if not isinstance(block, Mapping | ml_collections.ConfigDict):
      raise ValueError(f'--config.{name}: config.{path} is a value, {block!r}, and has no fields.')
    if part not in block:
      raise ValueError(f'--config.{name}: {_unknown(config, block, name, path)}')
    block = block[part]
  try:
    value = ast.literal_eval(text or '')
  except (ValueError, SyntaxError):
    value = text
  if text is not None and name in OF_DICTS:
    items = value if isinstance(value, tuple | list) else (value,)
    if not all(isinstance(item, dict) for item in items):
      raise ValueError(
        f'--config.{name}={text} must be a tuple of dicts: write '
        f'"({{\'{OF_DICTS[name]}\': ...}},)", not dict(...).'
      )
  if value is text:
    return
  if isinstance(block, ml_collections.ConfigDict) and isinstance(value, dict):
    lost = [] if name in OPEN else [field for field in block if field not in value]
    if lost:
      raise ValueError(
        f'--config.{name}={text} would leave out {", ".join(lost)}: set single fields, as '
        f'--config.{name}.{next(iter(value), lost[0])}=VALUE.'
      )
  kinds = {type(item) for item in block} if isinstance(block, tuple) else set()
  if len(kinds) == 1 and kinds <= {int, float, bool}:
    [kind] = kinds
    for item in value if isinstance(value, tuple | list) else (value,):
      if type(item) is not kind and (kind, type(item)) != (float, int):
        raise ValueError(f'--config.{name}={text}: {item!r} is no {kind.__name__}, as in {block}.')


def _unknown(config: ml_collections.ConfigDict, block: Any, name: str, path: str) -> str:
  """What is said of a name of which the block at `path` lacks the next part."""
  part = name.removeprefix(f'{path}.').partition('.')[0]
  where = f'config.{path}' if path else 'the config'
  if found := _meant(config, block, name, path):
    return f'{where} has no field {part!r}; did you mean {", ".join(found)}?'
  if path in OPEN:
    entries = list(block) or 'no entry'
    return f'{where} has {entries}: give all, as --config.{path}="{{{part!r}: ...}}".'
  return f'{where} has no field {part!r}; it has {", ".join(block)}.'


def _meant(config: ml_collections.ConfigDict, block: Any, name: str, path: str) -> list[str]:
  """The fields that a name may mean, the likeliest first: those that are called so elsewhere; else
  those of similar names, in its block and elsewhere.

  Args:
    config: which lacks the name.
    block: the innermost block of the name that there is.
    name: as given, in full.
    path: of the block.
  """
  prefix = f'{path}.' if path else ''
  part, dot, inner = name.removeprefix(prefix).partition('.')
  fields, by_end = list(_names(config)), collections.defaultdict(list)
  for field in fields:
    by_end[field.rpartition('.')[2]].append(field)
  near = _alike(part, block, 0.5 if path else 0.65)
  here = [field for each in near if (field := f'{prefix}{each}{dot}{inner}') in fields]
  if path in OPEN and not inner:  # An entry of the user's, who may mean a new one.
    return here
  own = name.rpartition('.')[2]
  alike = [own] if own in by_end else _alike(own, by_end, 0.65)
  there = [field for end in alike for field in by_end[end]]
  there.sort(key=lambda field: -difflib.SequenceMatcher(None, field, name).ratio())
  elsewhere_alone = own in by_end and not inner
  return _without_twins(list(dict.fromkeys(there if elsewhere_alone else [*here, *there])))


def _alike(word: str, known: Iterable[str], ratio: float) -> list[str]:
  """The known words that it is like, by difflib's ratio, or a part of."""
  known, short = list(known), len(word) < 4
  found = difflib.get_close_matches(word, known, 3, 0.5 if short else ratio)
  return [*found, *(each for each in known if len(word) > 2 and word in each and each not in found)]


def _without_twins(fields: Sequence[str]) -> list[str]:
  """The fields, but of those that differ in a user's name alone, such as buckets, the first."""
  twins: dict[str, str] = {}
  for field in fields:
    block = next((each for each in OPEN if field.startswith(f'{each}.')), '')
    inner = field[len(block) + 1 :].partition('.')[2]
    twins.setdefault(f'{block} {inner}' if block and inner else field, field)
  return list(twins.values())


def _names(block: ml_collections.ConfigDict, prefix: str = '') -> Iterator[str]:
  """The names of all fields and blocks, at all depths."""
  for name in block:
    yield prefix + name
    if isinstance(block[name], ml_collections.ConfigDict):
      yield from _names(block[name], f'{prefix}{name}.')


def _nearest(given, known):
  stems = {os.path.basename(name).removesuffix('.py'): name for name in known}
  found = difflib.get_close_matches(os.path.basename(given).removesuffix('.py'), list(stems), 1)
  if found:
    return f': did you mean {stems[found[0]]}?'
  return f'; there are {", ".join(known)}.'


class _Parser(config_flags.ConfigFileFlagParser):
  """Loads PATH[:ARG] from where `find` says, and checks the overrides of its fields."""

  def parse(self, path: str) -> Any:
    config = load(path)
    if isinstance(config, ml_collections.ConfigDict):
      for flag in sys.argv[1:]:
        name, equals, text = flag.lstrip('-').partition('=')
        if flag.startswith('-') and name.startswith('config.') and '[' not in name:
          try:
            check_override(config, name.partition('.')[2], text if equals else None)
          except ValueError as error:
            raise flags.Error(str(error)) from error  # To a ValueError absl adds all of --config.
    return config


def define() -> None:
  """Defines --config; `--config.a.b=value` overrides a field."""
  config_flags.DEFINE_config_file(
    'config', None, 'configs/<name>.py[:arg]; override with --config.a.b=value.', lock_config=True
  )
  flags.FLAGS['config'].parser = _Parser(name='config', lock_config=True)
