"""finetrainers' two files: prompts.txt has in each line the caption of the file in videos.txt.

Both are beside each other; files are relative to them.
"""

import itertools

from etils import epath

from data_pipelines.sources import file_names, files, lists, raw, text

CAPTIONS = ('prompt.txt', 'prompts.txt', 'caption.txt', 'captions.txt')
FILES = ('video.txt', 'videos.txt', 'image.txt', 'images.txt')


class Paired(lists.FilesSource):
  """A folder with such two files."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if there is one of each, and the first line of one that is not empty names media."""
    if not path.is_dir() or not _those(path, CAPTIONS):
      return False
    return any(
      file_names.media_of(next((line.strip() for line in _lines(path / name) if line.strip()), ''))
      for name in _those(path, FILES)
    )

  def shards(self) -> list[raw.Shard]:
    """The lines in runs; raises ValueError if the two files have not the same number of them."""
    captions_file, files_file = (self._only(names) for names in (CAPTIONS, FILES))
    captions, names = _lines(self.path / captions_file), _lines(self.path / files_file)
    num_names = _num_used(names)
    if not _num_used(captions) <= num_names <= len(captions):  # The last captions may be empty.
      raise ValueError(
        f'{self.path / captions_file} has {len(captions):,} lines and {files_file} {num_names:,}: '
        'each caption should stand in the line of its file.'
      )
    items: list[lists.Listed | raw.Rejected] = []
    listed = set()
    for number, name, caption in zip(itertools.count(1), names[:num_names], captions, strict=False):
      path = file_names.below(name, self.path, self.follow_outside) if name.strip() else ''
      if not path:
        reason = 'bad_row' if path == '' else 'unsafe_name'
        items.append(raw.Rejected(f'{files_file}:{number}', reason, f'{name!r} names no file here'))
        continue
      listed.add(path)
      items.append(lists.Listed(None, path, self.path, path, caption))
    for name in sorted(files.unlisted(self.path, listed)):
      items.append(raw.Rejected(name, 'no_caption', 'no list names it'))
    return list(lists.in_runs(None, items, self.max_examples))

  def _only(self, names: tuple[str, ...]) -> str:
    found = _those(self.path, names)
    if len(found) != 1:
      raise ValueError(f'{self.path} should have one of {names}, not {found}.')
    return found[0]


def _those(path: epath.Path, names: tuple[str, ...]) -> list[str]:
  return [name for name in names if (path / name).exists()]


def _lines(file: epath.Path) -> list[str]:
  try:
    return [line.rstrip('\r\n') for line in text.Lines(file)]
  except ValueError as error:
    raise ValueError(f'{file} cannot be read: {error}.') from error


def _num_used(lines: list[str]) -> int:
  """How many there are up to the last that is not empty."""
  return max((number for number, line in enumerate(lines, 1) if line.strip()), default=0)
