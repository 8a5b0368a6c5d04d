"""Lists to sample from: a video for each line image|||caption, as in VGen; or image alone, for
models that read no captions."""

import io
from collections.abc import Mapping, Sequence

from absl import logging
from etils import epath

from data_pipelines import user_errors
from data_pipelines.media import pictures
from data_pipelines.sources import text
from i2vgen_jax.sampling import prompts
from i2vgen_jax.sampling import stages as stages_lib

SEPARATOR = '|||'
MOST_SHOWN = 5  # Lines that an error names; the log has all.


def make(
  stages: Sequence[stages_lib.Stage],
  path: epath.PathLike,
  folder: epath.PathLike,
  seed: int,
  part: int = 0,
  num_parts: int = 1,
  more: Mapping[str, str] | None = None,
) -> None:
  """Makes a video for every line of a list, named by its number and its image; skips those that
  exist.

  Args:
    stages: to run, a base stage first.
    path: list of `image|||caption` lines; '#' begins a comment line.
    folder: to write to.
    seed: of the noise, the same for every line: each video is the one that its line alone gives.
    part: which of the lines: those whose number is `part` modulo `num_parts`.
    num_parts: among how many such commands the lines are split.
    more: values of the signals' own flags, the same for all lines.

  Raises:
    ValueError: the list is unreadable; or lines failed: after the last one, all are named with the
      reason.
  """
  lines = read(path)[part::num_parts]
  needs_caption = any(
    signal.reads_caption for stage in stages for signal in stage.session.signals.values()
  )
  stages_lib.make_folder(folder)
  failed = []
  for done, (number, line) in enumerate(lines):
    try:
      image_path, caption = split_line(line, epath.Path(path).parent, needs_caption)
      output = epath.Path(folder) / f'{number:04d}_{image_path.stem}.mp4'
      if output.exists():
        logging.info('%s is there: skipped', output)
        continue
      prompts.warn(stages[0].session.signals, {f'the caption of line {number}': caption})
      stages_lib.make_video(stages, pictures.read_image(image_path), caption, seed, output, more)
    except (ValueError, OSError) as error:
      logging.error('line %d: %s', number, user_errors.reason(error))
      failed.append(f'line {number}: {user_errors.reason(error)}')
    logging.info('%d of %d lines', done + 1, len(lines))
  if failed:
    raise ValueError(f'{len(failed)} of {len(lines)} lines of {path} failed: {_some(failed)}')


def check(path: epath.PathLike, needs_caption: bool = True) -> None:
  """Raises ValueError for a list of which no line names a picture, before anything is loaded.

  Args:
    path: of the list.
    needs_caption: as of `split_line`.
  """
  lines, failed = read(path), []
  for number, line in lines:
    try:
      image, _ = split_line(line, epath.Path(path).parent, needs_caption)
      if image.exists():
        return
      failed.append(f'line {number}: {image} does not exist.')
    except (ValueError, OSError) as error:
      failed.append(f'line {number}: {user_errors.reason(error)}')
  raise ValueError(
    f'list {path} holds no image{SEPARATOR}caption line whose image is there: {_some(failed)}'
  )


def _some(failed: Sequence[str]) -> str:
  more = f' And {len(failed) - MOST_SHOWN} more.' if len(failed) > MOST_SHOWN else ''
  return ' '.join(failed[:MOST_SHOWN]) + more


def read(path: epath.PathLike) -> list[tuple[int, str]]:
  """[(line number from 1, line)] without comments and empty lines.

  Raises:
    ValueError: the file is unreadable, or has no line.
  """
  try:
    content = text.decode(epath.Path(path).read_bytes())
  except (OSError, ValueError) as error:
    raise ValueError(f'list {path} cannot be read: {user_errors.reason(error)}.') from error
  lines = [
    (number, line.strip())
    for number, line in enumerate(io.StringIO(content, newline=None), 1)
    if line.strip() and not line.lstrip().startswith('#')
  ]
  if not lines:
    raise ValueError(f'list {path} holds no image{SEPARATOR}caption line.')
  return lines


def split_line(line: str, folder: epath.Path, needs_caption: bool = True) -> tuple[epath.Path, str]:
  """(image path, caption); a path that does not exist as given is one in the list's folder.

  Args:
    line: of the list.
    folder: of the list.
    needs_caption: whether a line without a caption is an error.

  Raises:
    ValueError: the line is not image|||caption.
  """
  image, separator, caption = line.partition(SEPARATOR)
  if not image.strip() or (needs_caption and not (separator and caption.strip())):
    raise ValueError(f'{line!r} is not image{SEPARATOR}caption.')
  given = epath.Path(image.strip())
  return given if given.exists() else folder / image.strip(), caption.strip()
