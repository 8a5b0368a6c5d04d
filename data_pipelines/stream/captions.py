"""Which of its captions an example is drawn with: by their weights, as a function of the step."""

import json
import shlex
from collections.abc import Sequence

import numpy as np

from data_pipelines.corpus import reader, remote_records, storage
from data_pipelines.media.errors import DecodeError
from data_pipelines.stream import earlier


class Captions:
  """Those that `caption` wrote beside corpora.

  Args:
    corpora: whose rows are drawn.

  Attributes:
    fingerprints: one per corpus; each changes with any of its captions and weights.

  Raises:
    ValueError: a corpus has none, or those of another version of it.
  """

  def __init__(self, corpora: reader.Corpora):
    self._corpora = corpora
    self.fingerprints: list[str] = []
    layouts = {}
    # Of corpora as they were, what they are now: their captions have grown with them.
    whole = corpora.whole if isinstance(corpora, earlier.Earlier) else corpora
    for directory, fingerprint in zip(whole.directories.values(), whole.fingerprints, strict=True):
      path = directory / 'sidecar' / 'caption' / 'manifest.json'
      command = f'python -m data_pipelines caption --corpus={shlex.quote(str(directory))}'
      try:
        manifest = storage.read_json(path, 'corpus', 'fingerprint', 'shards')
      except FileNotFoundError:
        raise ValueError(f'data.captions: {directory} has none. Make them: {command}') from None
      if manifest['corpus'] != fingerprint:
        raise ValueError(
          f'data.captions: those of {directory} are of another version of the corpus: {command}'
        )
      # None is of before `curate`, and so of whole videos; or not known, as in older manifests.
      if manifest.get('shots') not in (None, reader.shots(directory)):
        raise ValueError(
          f'data.captions: shots of {directory} end elsewhere since its captions were written: '
          f'{command}, with the same --source'
        )
      self.fingerprints.append(manifest['fingerprint'])
      for name, shard in manifest['shards'].items():
        layouts[_path(f'{directory}/{name}')] = remote_records.Layout(**shard)
    remote = reader.Remote(layouts, corpora.remote.cache)
    self._records = reader.Records(('captions',), (), remote)

  def draw(
    self, rows: Sequence[int], spans: Sequence[int], fractions: Sequence[float]
  ) -> list[str | None]:
    """A caption of each row; None where what came with the example is all there is.

    Args:
      rows: of the corpora.
      spans: which shot of each is drawn; captions of others are left out.
      fractions: in [0, 1), which of its captions, laid side by side as wide as their weights.
    """
    places = [self._corpora.locate(row) for row in rows]
    found = self._records.read_ahead((_path(shard), record) for shard, record in places)
    drawn: list[str | None] = []
    for record, span, fraction in zip(found, spans, fractions, strict=True):
      if isinstance(record, DecodeError):
        raise ValueError(f'data.captions: {record}; write them again.') from record
      told = [each for each in json.loads(record['captions']) if each[0] in (None, span)]
      if not told:
        drawn.append(None)
        continue
      ends = np.cumsum([weight for _, _, weight in told])
      drawn.append(told[int(np.searchsorted(ends, fraction * ends[-1], side='right'))][1])
    return drawn


def _path(shard: str) -> str:
  """Of the captions of a shard of records."""
  folder, _, name = shard.rpartition('/')
  return f'{folder}/captions/{name}'
