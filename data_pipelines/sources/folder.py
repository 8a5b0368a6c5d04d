"""A plain folder of videos and images, with captions in <stem>.txt beside each or in one CSV.

A text file in VGen's form would make it a VGen list (vgen_list.py), which is tried first. Folders
named train and val tell the split.
"""

import csv
import pathlib
from collections.abc import Iterator

from etils import epath

from data_pipelines.sources import columns, raw

CAPTION_FILES = ('metadata.csv', 'captions.csv')
FILE_COLUMNS = ('file_name', 'file', 'filename', 'path', 'video', 'image')
CAPTION_COLUMNS = ('caption', 'text', 'prompt', 'name')
ACCEPTED = (
  'Accepted are <name>.txt beside each <name>.mp4, '
  f'{" or ".join(CAPTION_FILES)} with columns file_name,caption, or list.txt with lines '
  'file|||caption.'
)


class Folder(raw.Source):
  """Media files at any depth below a folder."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if there is any media file."""
    return path.is_dir() and next(_media_files(path), None) is not None

  def shards(self) -> list[raw.Shard]:
    """The files by split, in runs."""
    by_split: dict[str | None, list[raw.Listed]] = {}
    for item in self._listed():
      by_split.setdefault(item.split, []).append(item)
    shards = []
    for split, items in by_split.items():
      size = raw.shard_size(len(items))
      shards += [raw.Shard(split, tuple(items[i : i + size])) for i in range(0, len(items), size)]
    return shards

  def read(self, shard: raw.Shard) -> Iterator[raw.RawExample | raw.Rejected]:
    """Reads the files."""
    return raw.read_listed(shard.items)

  def count(self, shard: raw.Shard) -> int:
    """The files."""
    return len(shard.items)

  def describe(self, shard: raw.Shard) -> list:
    """Names, sizes and captions."""
    return [[i.split, i.key, i.file.stat().length, i.caption] for i in shard.items]

  def columns(self) -> dict[str, list[str]]:
    """Of the caption files, if there are any."""
    files = [self.path / name for name in CAPTION_FILES]
    return {file.name: columns.csv_header(file) for file in files if file.exists()}

  def _listed(self) -> list[raw.Listed]:
    """All media files; raises if any lacks a caption."""
    captions = _captions_in_csv(self.path)
    listed, missing = [], []
    for file in sorted(_media_files(self.path)):
      name = file.relative_to(self.path)
      text = file.with_suffix('.txt')
      caption = captions.get(name.as_posix(), captions.get(name.name))
      if caption is None and text.exists():
        caption = text.read_bytes().decode('utf-8', errors='replace').strip()
      if caption is None:
        missing.append(name.as_posix())
      split = raw.split_of(name.parts[0]) if len(name.parts) > 1 else None
      listed.append(raw.Listed(split, name.as_posix(), file, caption or ''))
    if missing:
      names = ', '.join(missing[:5]) + (', ...' if len(missing) > 5 else '')
      raise ValueError(
        f'{len(missing)} of {len(listed)} files in {self.path} have no caption: {names}. {ACCEPTED}'
      )
    return listed


def _media_files(path: epath.Path) -> Iterator[epath.Path]:
  protocol = str(path).partition('://')[0] if '://' in str(path) else ''
  for folder, _, names in path.walk():
    if protocol and '://' not in str(folder):  # etils 1.15 loses it.
      folder = epath.Path(f'{protocol}://{str(folder).lstrip("/")}')
    for name in names:
      if pathlib.PurePath(name).suffix.lower() in raw.MEDIA_BY_SUFFIX:
        yield folder / name


def _captions_in_csv(path: epath.Path) -> dict[str, str]:
  captions: dict[str, str] = {}
  for name in CAPTION_FILES:
    if not (path / name).exists():
      continue
    with raw.open_text(path / name) as lines:
      reader = csv.DictReader(lines)
      found = reader.fieldnames or []
      file_column = columns.find(found, FILE_COLUMNS)
      caption_column = columns.find(found, CAPTION_COLUMNS)
      if file_column is None or caption_column is None:
        raise ValueError(
          f'{path / name} has columns {found}; it needs one of {FILE_COLUMNS} '
          f'and one of {CAPTION_COLUMNS}.'
        )
      captions.update({row[file_column]: row[caption_column] or '' for row in reader})
  return captions
