"""A plain folder of videos and images, with captions in <stem>.txt beside each or in one CSV.

A text file in VGen's form would make it a VGen list (vgen_list.py), which is tried first. Folders
named train and val tell the split.
"""

import csv
import pathlib

from data_pipelines.sources import raw

CAPTION_FILES = ('metadata.csv', 'captions.csv')
FILE_COLUMNS = ('file_name', 'file', 'filename', 'path', 'video', 'image')
CAPTION_COLUMNS = ('caption', 'text', 'prompt', 'name')
ACCEPTED = (
  'Accepted are <name>.txt beside each <name>.mp4, '
  f'{" or ".join(CAPTION_FILES)} with columns file_name,caption, or list.txt with lines '
  'file|||caption.'
)


class Folder(raw.ListedSource):
  """Media files at any depth below a folder."""

  @staticmethod
  def matches(path: pathlib.Path) -> bool:
    """True if there is any media file."""
    return path.is_dir() and next(_media_files(path), None) is not None

  def listed(self) -> list[raw.Listed]:
    """All media files; raises if any lacks a caption."""
    captions = _captions_in_csv(self.path)
    listed, missing = [], []
    for file in sorted(_media_files(self.path)):
      name = file.relative_to(self.path)
      text = file.with_suffix('.txt')
      caption = captions.get(name.as_posix(), captions.get(name.name))
      if caption is None and text.exists():
        caption = text.read_text(encoding='utf-8', errors='replace').strip()
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


def _media_files(path):
  return (file for file in path.rglob('*') if file.suffix.lower() in raw.MEDIA_BY_SUFFIX)


def _captions_in_csv(path):
  captions = {}
  for name in CAPTION_FILES:
    if not (path / name).exists():
      continue
    with (path / name).open(newline='', encoding='utf-8', errors='replace') as lines:
      reader = csv.DictReader(lines)
      found = reader.fieldnames or []
      file_column = next((column for column in FILE_COLUMNS if column in found), None)
      caption_column = next((column for column in CAPTION_COLUMNS if column in found), None)
      if file_column is None or caption_column is None:
        raise ValueError(
          f'{path / name} has columns {found}; it needs one of {FILE_COLUMNS} '
          f'and one of {CAPTION_COLUMNS}.'
        )
      captions.update({row[file_column]: row[caption_column] or '' for row in reader})
  return captions
