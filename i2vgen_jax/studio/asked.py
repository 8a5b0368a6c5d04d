"""What a form asks for, as the command line of `sample` that makes the same: parsed by its flags
and refused in its words.
"""

import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from absl import flags

from data_pipelines import user_errors
from data_pipelines.media import pictures
from i2vgen_jax import sample
from i2vgen_jax.process import cli, run_flags
from i2vgen_jax.sampling import prompts
from i2vgen_jax.studio import runs as runs_lib

MAX_BYTES = 20_000_000  # Of a picture's file.
MAX_TEXT = 2_000  # Characters of a field.
# Fields of the form that are flags of `sample` of the same name; an empty one is left out.
FIELDS = (
  'prompt', 'negative_prompt', 'seed', 'frames', 'fps', 'width', 'height', 'steps', 'guidance',
  'sampler', 'weights',
)  # fmt: skip
# In a second video, to compare: field of the form -> the field that it stands for.
OTHER = {'other_seed': 'seed', 'other_run': 'run', 'other_step': 'step', 'other_weights': 'weights'}
OUTPUT = 'video.mp4'


@dataclasses.dataclass(frozen=True)
class Upload:
  """A file that was sent: its name and its bytes."""

  name: str
  data: bytes


@dataclasses.dataclass(frozen=True)
class Asked:
  """One video.

  Attributes:
    arguments: of `sample`.
    given: its flags, parsed.
    image: the first frame.
    more: values of the signals' own flags.
    notes: what to know of the prompts.
  """

  arguments: tuple[str, ...]
  given: flags.FlagValues
  image: pictures.Encoded
  more: Mapping[str, str]
  notes: tuple[str, ...]

  @property
  def command(self) -> str:
    """What to type to get the same video."""
    return shlex.join(['python', '-m', 'i2vgen_jax.sample', *self.arguments])


def read(
  fields: Mapping[str, str],
  uploads: Mapping[str, Upload],
  runs: runs_lib.Runs,
  folder: pathlib.Path,
) -> list[Asked]:
  """The videos that a form asks for: one, or two to compare.

  Args:
    fields: of the form, by name.
    uploads: its files, by name.
    runs: that there are.
    folder: for further pictures.

  Raises:
    ValueError: with what is to be changed.
  """
  fields = {name: ' '.join(value.split()) for name, value in fields.items()}
  for name, value in fields.items():
    if len(value) > MAX_TEXT:
      raise ValueError(f'{name} has {len(value)} characters: at most {MAX_TEXT} are read.')
  if 'image' not in uploads:
    raise ValueError('Give a picture: it becomes the first frame.')
  image = _picture(uploads['image'])
  wanted = [fields]
  if fields.get('compare'):
    given = {OTHER[name]: value for name, value in fields.items() if name in OTHER and value}
    wanted.append(fields | given)
  more, shown = _more(wanted[0], uploads, runs, folder)
  return [_asked(one, uploads['image'].name, image, more, shown, runs) for one in wanted]


def _picture(upload: Upload) -> pictures.Encoded:
  if len(upload.data) > MAX_BYTES:
    raise ValueError(
      f'image {upload.name} has {len(upload.data):,} bytes: at most {MAX_BYTES:,} are taken.'
    )
  return pictures.from_bytes(upload.data, upload.name)


def _more(
  fields: Mapping[str, str],
  uploads: Mapping[str, Upload],
  runs: runs_lib.Runs,
  folder: pathlib.Path,
) -> tuple[dict[str, str], list[str]]:
  """(values of the signals' flags, their arguments as they are shown).

  A flag that names a file gets one that was sent, never a path of this machine.
  """
  more, shown = {}, []
  for flag in runs.controls(runs.number(fields.get('run', ''))):
    if not flag.is_file:
      if value := fields.get(flag.name):
        more[flag.name] = value
        shown.append(f'--{flag.name}={value}')
    elif upload := uploads.get(flag.name):
      _picture(upload)
      path = folder / flag.name
      path.write_bytes(upload.data)
      more[flag.name] = str(path)
      shown.append(f'--{flag.name}={upload.name}')
  return more, shown


def _asked(
  fields: Mapping[str, str],
  image_name: str,
  image: pictures.Encoded,
  more: Mapping[str, str],
  shown: Sequence[str],
  runs: runs_lib.Runs,
) -> Asked:
  number = runs.number(fields.get('run', ''))
  arguments = [f'--workdir={runs.workdirs[number]}', f'--image={image_name}']
  given = {name: fields[name] for name in FIELDS if fields.get(name)}
  step = fields.get('step') or runs.newest(number)
  if step:
    given['step'] = step
  if fields.get('refine') and runs.refine_workdir:
    given['refine_workdir'] = runs.refine_workdir
  if runs.reads_captions:
    given.setdefault('prompt', '')
  arguments += [f'--{name}={value}' for name, value in given.items()]
  arguments += [*shown, f'--output={OUTPUT}']
  values = parse(arguments)
  sample.check_flags(values)
  sample.check_runs(values)
  signals = runs.signals(number)
  sample.check_conditions(more, signals)
  texts = {f'--{name}': values[name].value for name in ('prompt', 'negative_prompt')}
  runs.check(values)
  return Asked(tuple(arguments), values, image, more, tuple(prompts.notes(signals, texts)))


def parse(arguments: Sequence[str]) -> flags.FlagValues:
  """The flags of `sample`; raises ValueError in the words of its command."""
  values = flags.FlagValues()
  run_flags.define_request(values)
  try:
    values(['sample', *arguments])
    cli.check_numbers(values)
  except flags.Error as error:
    raise ValueError(cli.flag_message(error)) from error
  return values


def file_name(name: str) -> str:
  """The name of a file that was sent, without folders and what no terminal should get."""
  last = name.replace('\\', '/').rpartition('/')[2]
  return user_errors.printable(last)[-80:] or 'picture'
