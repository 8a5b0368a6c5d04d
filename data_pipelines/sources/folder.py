"""A folder of videos and images, with captions in <stem>.txt beside each or in metadata files.

metadata.csv, .jsonl and .parquet are those of Hugging Face's imagefolder and videofolder: in any
folder, with file names relative to it. A text file in VGen's form would make it a VGen list
(vgen_list.py), which is tried first. Folders named train and val tell the split.
"""

import collections
import pathlib
import posixpath
from collections.abc import Iterator, Mapping

from etils import epath

from data_pipelines.sources import columns, file_names, files, lists, raw, tables, text

CAPTION_FILES = (
  'metadata.csv', 'captions.csv', 'metadata.jsonl', 'captions.jsonl', 'metadata.parquet',
)  # fmt: skip
FILE_COLUMNS = (
  'file_name', 'file', 'filename', 'path', 'video', 'image', 'video_file_name', 'image_file_name',
)  # fmt: skip
CAPTION_COLUMNS = ('caption', 'text', 'prompt', 'name', 'captions', 'prompts', 'description')
ACCEPTED = (
  'Accepted are <name>.txt beside each <name>.mp4, '
  f'{", ".join(CAPTION_FILES)} with columns file_name,caption, prompts.txt beside videos.txt, or '
  'list.txt with lines file|||caption.'
)
PUT = 'put clips there, <name>.txt beside each <name>.mp4.'


class Folder(lists.FilesSource):
  """Media files at any depth below a folder."""

  @staticmethod
  def matches(path: epath.Path) -> bool:
    """True if there is any media file."""
    return path.is_dir() and files.has_media(path)

  def shards(self) -> list[raw.Shard]:
    """The files by split, in runs."""
    by_split: dict[str | None, list[lists.Listed | raw.Rejected]] = {}
    for split, item in _Listing(self.path, self.follow_outside).items():
      by_split.setdefault(split, []).append(item)
    runs = (lists.in_runs(split, items, self.max_examples) for split, items in by_split.items())
    return [shard for several in runs for shard in several]

  def columns(self) -> dict[str, list[str]]:
    """Of the caption files here, if there are any."""
    found = [self.path / name for name in CAPTION_FILES]
    return {file.name: _columns(file) for file in found if file.exists()}


class _Listing:
  """All that a folder holds: media with captions, and what is rejected by its name.

  Names are compared in their composed form (file_names.composed).
  """

  def __init__(self, path: epath.Path, follow_outside: bool):
    self._path, self._follow_outside = path, follow_outside
    self._names = sorted(files.walk(path))
    self._media = [name for name in self._names if file_names.media_of(name)]
    self._spellings = collections.Counter(map(file_names.composed, self._names))
    self._texts = {_stem(name): name for name in self._names if name.lower().endswith('.txt')}
    self._stems = {_stem(name) for name in self._media}
    self._by_base: dict[str, set[str]] = collections.defaultdict(set)
    for name in map(file_names.composed, self._media):
      self._by_base[name.rpartition('/')[2]].add(name)

  def items(self) -> list[tuple[str | None, lists.Listed | raw.Rejected]]:
    """(split, item), sorted by name; raises ValueError if no file has a caption."""
    rows, others = self._rows()
    found: list[tuple[str, lists.Listed | raw.Rejected]] = [(other.key, other) for other in others]
    media = [(name, self._of_media(name, rows)) for name in self._media]
    found += media
    found += [(name, bad) for name in self._names if (bad := self._of_other(name))]
    missing = [name for name, item in media if _has_none(item)]
    if not media:
      raise ValueError(f'{self._path} holds no videos or images: {PUT}')
    if len(missing) == len(media):
      names = ', '.join(missing[:5]) + (', ...' if len(missing) > 5 else '')
      raise ValueError(
        f'{len(missing)} of {len(self._media)} files in {self._path} have no caption: {names}. '
        f'{ACCEPTED}'
      )
    return [(_split(name), item) for name, item in sorted(found, key=lambda pair: pair[0])]

  def _of_media(self, name: str, rows: Mapping[str, str]) -> lists.Listed | raw.Rejected:
    caption = rows.get(file_names.composed(name))
    text_file = self._texts.get(_stem(name), '')
    for file in (name, text_file):
      if self._spellings[file_names.composed(file)] > 1:
        return raw.Rejected(name, 'ambiguous_name', f'there are two files {file!r}')
    if caption is None and text_file and not self._follow_outside:
      if files.is_link_out(self._path / text_file, self._path):
        return raw.Rejected(name, 'unsafe_name', f'{text_file} is a link that leads out')
    if caption is None and text_file:
      found = lists.read_caption(self._path / text_file, name)
      if isinstance(found, raw.Rejected):
        return found
      caption = found
    if caption is None:
      return raw.Rejected(name, 'no_caption', f'no {_stem(name)}.txt')
    return lists.Listed(_split(name), name, self._path, name, caption)

  def _of_other(self, name: str) -> raw.Rejected | None:
    """Why a file that is not media is not used; None if it is, or belongs to none."""
    file = pathlib.PurePosixPath(name)
    stem = _stem(name)
    has_media = stem in self._stems
    if file_names.media_of(name) or file.name in CAPTION_FILES or files.is_document(name):
      return None
    if file.suffix.lower() == '.txt':
      return None if has_media else raw.Rejected(name, 'missing_file', f'no media {stem}.*')
    if file.suffix.lower() == '.json' and has_media:  # img2dataset's, of each picture.
      return None
    return raw.Rejected(name, 'unknown_format', file_names.SUFFIXES)

  def _rows(self) -> tuple[dict[str, str], list[raw.Rejected | lists.Listed]]:
    """(captions by media file, rows that are of none here)."""
    captions: dict[str, str] = {}
    others: list[raw.Rejected | lists.Listed] = []
    left = []
    media = set(map(file_names.composed, self._media))
    for table in self._names:
      if table.rpartition('/')[2] not in CAPTION_FILES:
        continue
      for found in _captions(self._path / table, table, self._follow_outside):
        if isinstance(found, raw.Rejected):
          others.append(found)
          continue
        where, name, caption = found
        if (name := file_names.composed(name)) not in media:
          left.append(found)
        elif name in captions:
          others.append(raw.Rejected(where, 'duplicate_row', f'{name} has a caption already'))
        else:
          captions[name] = caption
    for where, name, caption in left:
      if file_names.leads_out(name):
        others.append(lists.Listed(None, name, self._path, name, caption))
        continue
      # A bare name may be of a file in some folder below.
      same = self._by_base.get(file_names.composed(name), set())
      if len(same) == 1 and not same & captions.keys():
        captions[next(iter(same))] = caption
      else:
        others.append(raw.Rejected(name, 'missing_file', where))
    return captions, others


def _has_none(item: lists.Listed | raw.Rejected) -> bool:
  return isinstance(item, raw.Rejected) and item.reason == 'no_caption'


def _stem(name: str) -> str:
  """The name without its suffix, composed."""
  suffix = pathlib.PurePosixPath(name).suffix
  return file_names.composed(name[: -len(suffix)] if suffix else name)


def _split(name: str) -> str | None:
  return file_names.split_of(name.partition('/')[0]) if '/' in name else None


def _columns(file: epath.Path) -> list[str]:
  """Of a metadata file; of JSONL, of any of its rows."""
  if file.suffix == '.csv':
    return columns.csv_header(file)[0]
  if file.suffix == '.parquet':
    return tables.parquet_columns(file)
  rows = tables.jsonl_rows(text.Lines(file))
  return list(dict.fromkeys(name for row in rows for name in row.values or ()))


def _captions(
  file: epath.Path, name: str, follow_outside: bool
) -> Iterator[tuple[str, str, str] | raw.Rejected]:
  """(where it stands, media file, caption) of each row; names are relative to the corpus.

  Args:
    file: of the metadata.
    name: its own, relative to the corpus.
    follow_outside: whether media may lie out of its folder.
  Raises:
    ValueError: the file lacks a column or cannot be read.
  """
  found = _columns(file)
  if not columns.find(found, FILE_COLUMNS) or not columns.find(found, CAPTION_COLUMNS):
    raise ValueError(
      f'{file} has columns {found}; it needs one of {FILE_COLUMNS} and one of {CAPTION_COLUMNS}.'
    )
  if file.suffix == '.parquet':
    rows = tables.parquet_rows(file)
  else:
    lines = text.Lines(file)
    rows = tables.jsonl_rows(lines) if file.suffix == '.jsonl' else tables.csv_rows(lines)[1]
  folder = name.rpartition('/')[0]
  for row in rows:
    where = f'{name}:{row.number}'
    if row.fault:
      yield raw.Rejected(where, 'bad_row', row.fault)
      continue
    listed, caption = (columns.value(row.values, of) for of in (FILE_COLUMNS, CAPTION_COLUMNS))
    if not isinstance(listed, str) or not isinstance(caption, str) or not listed.strip():
      reason = 'no_caption' if isinstance(listed, str) and caption is None else 'bad_row'
      yield raw.Rejected(where, reason, f'file {listed!r}, caption {caption!r}')
      continue
    path = file_names.below(listed, file.parent, follow_outside)
    if path is None:
      yield raw.Rejected(where, 'unsafe_name', f'{listed!r} leads out of the folder')
    else:
      yield where, posixpath.normpath(posixpath.join(folder, path)), caption
