"""Every field of a config, with its meaning: `--help_config` of train, and docs/config.md.

  python -m i2vgen_jax.config_reference --output=docs/config.md

Meanings, units and who reads a field are words of configs/words/; all else is read from the code:
values from configs/common.py and the shipped configs, ranges and names from where they are checked.
"""

from absl import flags

from i2vgen_jax.process import cli

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_string('output', None, 'File to write, docs/config.md.')
  flags.mark_flags_as_required(['output'])
  cli.run(__file__)

import dataclasses
import functools
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from configs import common
from data_pipelines.corpus import storage
from i2vgen_jax.process import config_flag, paths, ranges, tables
from i2vgen_jax.stored import run_config

# The flag belongs to the command that calls define, and stands in its --help.
flags.disclaim_key_flags()
# Field -> the file and the table that names its values, and what it takes besides.
TABLES = {
  'unet.remat': ('i2vgen_jax/models/unet3d.py', 'POLICIES', 'none'),
  'text_encoder.model.activation': ('i2vgen_jax/models/clip.py', 'ACTIVATIONS'),
  'image_encoder.model.activation': ('i2vgen_jax/models/clip.py', 'ACTIVATIONS'),
  't5.model.activation': ('i2vgen_jax/models/t5.py', 'ACTIVATIONS'),
  'schedule.kind': ('i2vgen_jax/diffusion/schedule.py', 'KINDS'),
  'loss.prediction_type': ('i2vgen_jax/diffusion/parameterization.py', 'TO_X0_EPS'),
  'data.buckets.NAME.media': ('data_pipelines/corpus/schema.py', 'MEDIA'),
  'optimizer.kind': ('i2vgen_jax/training/optimizer.py', 'KINDS'),
  'optimizer.schedule': ('i2vgen_jax/training/optimizer.py', 'SCHEDULES'),
  'compilation.profile': ('i2vgen_jax/parallel/xla_profiles.py', 'PROFILES'),
  'sample.sampler': ('i2vgen_jax/diffusion/sampler.py', 'KINDS'),
  'sample.spacing': ('i2vgen_jax/diffusion/sampler.py', 'SPACINGS'),
  'sample.schedule': ('i2vgen_jax/diffusion/schedule.py', 'KINDS', ''),
}
TYPES: dict[type, str] = {bool: 'True, False', int: 'a whole number', float: 'a number'}
LONG = 60  # Characters: longer values of single configs are not shown.
# It gives no config without a start and a corpus, which most of its values follow.
FINETUNE = 'configs/finetune.py'
WORDS = ('run', 'model', 'data', 'training')  # Files of configs/words/, in the page's order.
PAGE = f"""# Every field of a config

<!-- Made by the command below: change configs/words/ or the code, and run it. -->

A config is a Python file of `configs/`; `--config.BLOCK.FIELD=VALUE` replaces a value.
`python -m i2vgen_jax.train --help_config=WORD` shows the fields that have a word in their name or
meaning. This page is made from `configs/words/` and the code:

<!-- run -->
```bash
python -m i2vgen_jax.config_reference --output=docs/config.md
```

The default is that of `configs/common.py`, the release's; then come shipped configs with another
one. `{FINETUNE}` takes its values from a start and a corpus ([finetune.md](finetune.md)).
*Resumes* says that a run which is started again may have another value
([checkpoints.md](checkpoints.md)).
"""


@dataclasses.dataclass(frozen=True)
class Field:
  """A field, or a block of fields, of configs.

  Attributes:
    name: with its blocks; NAME and such, in capitals, stand for names of the user's.
    words: what it means.
    reader: the file that reads it.
    unit: of its value; '' where it has none.
    is_block: whether it holds fields.
    values: config -> value; '' is configs/common.py.
  """

  name: str
  words: str
  reader: str
  unit: str = ''
  is_block: bool = False
  values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def block(self) -> str:
    """The block that holds it, '' of none."""
    return self.name.rpartition('.')[0]

  @property
  def allowed(self) -> str:
    """Names, range or type that the code takes, with the unit; '' says that the words tell."""
    values = self._values
    return f'{self.unit}: {values}' if self.unit and values else self.unit or values

  @property
  def _values(self) -> str:
    if self.name in TABLES:
      file, table, *more = TABLES[self.name]
      return ', '.join(name or "''" for name in (*more, *tables.names(file, table)))
    if self.name == 'unet.conditioners':
      return ', '.join(conditioners())
    if self.name in ranges.DTYPES:
      return ', '.join(ranges.DTYPES[self.name])
    kind = TYPES.get(type(next(iter(self.values.values()), None)), '')
    return f'{kind} in {ranges.RANGES[self.name]}' if self.name in ranges.RANGES else kind

  @property
  def resumes(self) -> bool:
    """Whether it may change when a run is started again."""
    return bool(run_config.RESUMABLE.match(self.name))

  @property
  def default(self) -> str:
    """The value of configs/common.py; '' where that has none."""
    return repr(self.values['']) if '' in self.values else ''

  @property
  def others(self) -> list[tuple[str, list[str]]]:
    """Each other value of shipped configs, '' for long ones, and the configs that have it; none of
    a field whose name is the user's."""
    found: dict[str, list[str]] = {}
    for config, value in self.values.items():
      if repr(value) != self.default and not re.search(r'\b[A-Z]+\b', self.name):
        found.setdefault(repr(value) if len(repr(value)) <= LONG else '', []).append(config)
    return list(found.items())


def fields() -> list[Field]:
  """All fields and blocks that have words, with the values that configs have."""
  values: dict[str, dict[str, Any]] = {}
  patterns = [(re.compile(pattern_of(field.name)), field.name) for field in described()]
  for config, flat in configs().items():
    for name, value in flat.items():
      for pattern, field in patterns:
        if pattern.fullmatch(name):
          values.setdefault(field, {}).setdefault(config, value)
  return [dataclasses.replace(field, values=values.get(field.name, {})) for field in described()]


@functools.cache
def described() -> list[Field]:
  """All fields and blocks of configs/words/, without values."""
  words: dict[str, Any] = {}
  for name in WORDS:
    path = paths.ROOT / 'configs' / 'words' / f'{name}.toml'
    words |= tomllib.loads(path.read_text(encoding='utf-8'))
  return list(_in_block(words, '', ''))


def _in_block(words: Mapping[str, Any], block: str, reader: str) -> Iterator[Field]:
  for name, said in words.items():
    path = f'{block}.{name}' if block else name
    if isinstance(said, dict):
      yield Field(path, *said[''], is_block=True)
      yield from _in_block(said, path, said[''][1])
    elif name:
      unit, text, *own = said
      yield Field(path, text, *(own or [reader]), unit=unit)


def pattern_of(name: str) -> str:
  """A regular expression that fits the fields that a name of configs/words/ stands for."""
  return '[.]'.join('[^.]+' if part.isupper() else part for part in name.split('.'))


@functools.cache
def configs() -> dict[str, dict[str, Any]]:
  """Config -> its fields by whole names; '' is configs/common.py."""
  found = {'': _flat(common.release())}
  for path in config_flag.shipped():
    if path != FINETUNE:
      found[path.removeprefix('configs/').removesuffix('.py')] = _flat(config_flag.load(path))
  return found


def _flat(config: Any) -> dict[str, Any]:
  return run_config.flatten(config.to_dict())


def conditioners() -> list[str]:
  """The kinds of lines of unet.conditioners, by their files."""
  folder = 'i2vgen_jax/conditions'
  others = tables.names(f'{folder}/__init__.py', '_OTHER_FILES')
  stems = [path.stem for path in sorted((paths.ROOT / folder).glob('[a-z]*.py'))]
  return [stem for stem in stems if stem not in others]


def matching(word: str) -> list[Field]:
  """The fields whose name or meaning has the word, or all of ''; raises ValueError for none."""
  word = word.lower()
  found = [each for each in fields() if word in each.name.lower() or word in each.words.lower()]
  if not found:
    raise ValueError(f'--help_config={word}: no field has it in its name or meaning.')
  return found


def text(shown: Sequence[Field]) -> str:
  """Fields for a terminal."""
  lines = []
  for field in shown:
    if field.is_block:
      lines.append(f'{field.name}: {field.words}\n')
      continue
    others = [f'{value or "another"} in {", ".join(names)}' for value, names in field.others]
    facts = [
      *filter(None, [field.allowed]),
      *([f'default {field.default}'] if field.default else []),
      *others,
      *(['may change when a run is resumed'] if field.resumes else []),
      f'read by {field.reader}',
    ]
    indented = dict(width=100, initial_indent='    ', subsequent_indent='    ')
    lines.append(f'--config.{field.name}\n' + textwrap.fill(field.words, **indented))
    lines.append(textwrap.fill('; '.join(facts), **indented) + '\n')
  return '\n'.join(lines)


def page() -> str:
  """docs/config.md."""
  parts, head = [PAGE], '| field | meaning | default | values | resumes |\n|---|---|---|---|---|'
  shown = fields()
  top = [field for field in shown if not field.block and not field.is_block]
  parts.append('\n'.join([head, *map(_row, top)]))
  for block in [field for field in shown if field.is_block]:
    rows = [field for field in shown if field.block == block.name and not field.is_block]
    parts.append(f'## {block.name}\n\n{block.words} Read by `{block.reader}`.')
    if rows:
      parts.append('\n'.join([head, *(_row(row, block.reader) for row in rows)]))
  return '\n\n'.join(part.strip() for part in parts) + '\n'


def _row(field: Field, reader: str = '') -> str:
  """A line of a table; names its reader if that is another one than the block's."""
  words = field.words + (f' Read by `{field.reader}`.' if field.reader != reader else '')
  default = [_code(field.default)] if field.default else []
  default += [
    f'{_code(value) if value else "another"} in {", ".join(names)}' for value, names in field.others
  ]
  name = _code(field.name.rpartition('.')[2])
  cells = (name, words, '; '.join(default), field.allowed, 'yes' if field.resumes else '')
  return '| ' + ' | '.join(cell.replace('|', '&#124;') for cell in cells) + ' |'


def _code(value: str) -> str:
  """In Markdown; a bar within backticks would end the cell."""
  return f'<code>{value}</code>' if '|' in value or '`' in value else f'`{value}`'


class _HelpConfig(flags.BooleanFlag):
  """--help_config, or --help_config=WORD: prints the fields, and ends the command."""

  def __init__(self) -> None:
    super().__init__('help_config', False, 'Show all fields of a config; =WORD those that have it.')

  def parse(self, argument: Any) -> None:
    """Called by absl with 'true' where no word is given."""
    if argument in ('false', False, None):
      return
    word = '' if argument in ('true', True) else argument
    try:
      print(text(matching(word)))
    except ValueError as error:
      raise flags.Error(str(error)) from error
    raise SystemExit(0)


def define() -> None:
  """Defines --help_config."""
  flags.DEFINE_flag(_HelpConfig())


def main() -> None:
  """Writes the page."""
  storage.write_bytes(epath.Path(flags.FLAGS.output), page().encode())
