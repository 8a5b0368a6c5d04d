"""Readers of the layouts in which people hold corpora: one file each and a line in LAYOUTS."""

import collections

from etils import epath

from data_pipelines.sources import (
  file_names,
  folder,
  laion,
  paired,
  raw,
  vgen_list,
  webdataset,
  webvid,
)

LAYOUTS = {  # In the order they are tried: the plain folder takes what nothing else knows.
  'webvid': webvid.WebVid,
  'webdataset': webdataset.WebDataset,
  'laion_parquet': laion.LaionParquet,
  'vgen_list': vgen_list.VGenList,
  'paired': paired.Paired,
  'folder': folder.Folder,
}
OF_FOLDERS = ('paired', 'folder')  # What reads no single file, such as a list.


def detect(path: epath.PathLike) -> str:
  """Names the layout of the corpus at `path`: a key of LAYOUTS.

  Raises:
    ValueError: there is nothing, one file of media, or nothing that a layout knows.
  """
  path = epath.Path(path)
  if not path.exists():
    raise ValueError(f'{path} does not exist: check the path.')
  for layout, source in LAYOUTS.items():
    if source.matches(path):
      return layout
  if path.is_file():
    raise ValueError(_one_file(path))
  found = collections.Counter(file.suffix or file.name for file in path.iterdir())
  if not found:
    raise ValueError(f'{path} is empty: {folder.PUT}')
  raise ValueError(
    f'{path} is in none of the layouts {tuple(LAYOUTS)}: it holds {dict(found.most_common(5))}, no '
    f'media ({", ".join(file_names.MEDIA_BY_SUFFIX)}), WebVid CSV or tar. {folder.ACCEPTED}'
  )


def _one_file(path: epath.Path) -> str:
  return (
    f'{path} is one file: give the folder that it lies in, {path.parent} (or a CSV, tar, table or '
    'list of clips).'
  )


def open_source(
  path: epath.PathLike, layout: str | None = None, follow_outside: bool = False
) -> raw.Source:
  """The reader for the corpus at `path`; the layout is detected unless given.

  Args:
    path: of the corpus.
    layout: a key of LAYOUTS.
    follow_outside: whether listed names and links may lead out of its folder.
  Raises:
    ValueError: there is nothing of a known layout.
  """
  layout = layout or detect(path)
  if layout not in LAYOUTS:
    raise ValueError(f'layout={layout!r} is not one of {tuple(LAYOUTS)}.')
  if layout in OF_FOLDERS and epath.Path(path).is_file():
    raise ValueError(_one_file(epath.Path(path)))
  return LAYOUTS[layout](epath.Path(path), follow_outside)
