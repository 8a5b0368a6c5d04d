"""One file of rows says what all sidecars say, and corpora without it open as before."""

import json

import numpy as np
import pytest

from data_pipelines.corpus import reader, remote_records
from data_pipelines.ingest import command as ingest
from tests import corpora


@pytest.fixture
def several(tmp_path):
  """Two tars, so two shards: (its input, the corpus)."""
  source = tmp_path / 'in'
  source.mkdir()
  for shard in range(2):
    members = [(f'{shard}{i}.mp4', corpora.video(4 * shard + i)) for i in range(6)]
    captions = [(f'{shard}{i}.txt', b'a caption') for i in range(6)]
    corpora.write_tar(source / f'{shard}.tar', sorted(members + captions))
  ingest.ingest(str(source), str(tmp_path / 'out'), validation_fraction=0.2, num_processes=1)
  return source, tmp_path / 'out'


def strip(directory):
  """Makes it a corpus of before there were rows; returns the manifest that it had."""
  manifest = json.loads((directory / 'manifest.json').read_text())
  older = json.loads(json.dumps(manifest))
  for split in older['splits'].values():
    (directory / split.pop('rows')).unlink()
    for shard in split['shards']:
      del shard['size'], shard['footer']
  (directory / 'manifest.json').write_text(json.dumps(older))
  return manifest


def read(directory, split):
  found = reader.Corpora(str(directory), split)
  return found.columns | found.sizes | dict(starts=np.array(found.starts))


def test_rows_are_those_of_the_sidecars(several):
  source, directory = several
  new = {split: read(directory, split) for split in ('train', 'validation')}
  manifest = strip(directory)
  for split, columns in new.items():
    older = read(directory, split)
    assert older.keys() == columns.keys() and len(columns['fps']) == columns['starts'][-1] > 0
    for name, values in older.items():
      assert columns[name].dtype == values.dtype
      np.testing.assert_array_equal(columns[name], values)
  # The same command adds what an older version did not write.
  again = ingest.ingest(str(source), str(directory), validation_fraction=0.2, num_processes=1)
  assert again == manifest == reader.read_manifest(directory)
  np.testing.assert_array_equal(read(directory, 'train')['fps'], new['train']['fps'])


def test_rows_of_another_corpus_are_refused(several):
  _, directory = several
  (directory / 'rows/train.parquet').write_bytes(
    (directory / 'rows/validation.parquet').read_bytes()
  )
  with pytest.raises(ValueError, match='rows for'):
    read(directory, 'train')


def test_a_manifest_tells_where_footers_begin(several):
  _, directory = several
  for split in reader.read_manifest(directory)['splits'].values():
    for shard in split['shards']:
      layout = remote_records.layout_of(directory / shard['records'])
      assert (shard['size'], shard['footer']) == (layout.size, layout.footer)
      assert layout.size == (directory / shard['records']).stat().st_size


def test_a_start_opens_no_sidecar(several, monkeypatch):
  """Of 10,000 shards it would be 10,000 files."""
  _, directory = several
  for path in (directory / 'sidecar').glob('*.parquet'):
    path.unlink()
  assert len(read(directory, 'train')['fps']) == len(reader.Corpora(str(directory), 'train'))
