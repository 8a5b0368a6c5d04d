"""Once a corpus has grown, each stage looks at what is new; decisions are over all of it."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest
from etils import epath

from data_pipelines.caption import captioners
from data_pipelines.caption import command as caption
from data_pipelines.caption import shard as caption_shard
from data_pipelines.corpus import jobs, reader
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.index import table as table_lib
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from data_pipelines.media import sandbox
from data_pipelines.score import shards as score
from data_pipelines.score import transitions
from data_pipelines.stream import captions as captions_lib
from data_pipelines.stream import earlier
from tests import corpora
from tests.data_pipelines.corpus.test_jobs import contents

RULES = decide.Rules(min_short_side=16, min_duration=0.1)
NUM_FIRST, NUM_ALL = 9, 13


class Scorer:
  """Embeds nothing well, and counts what it is given."""

  image_size, dim = 32, 4

  def __init__(self, folder):
    self.weights = epath.Path(folder / 'weights')
    self.weights.write_bytes(b'weights')
    self.captions = []

  def images(self, pixels_BHWC):
    return np.full((len(pixels_BHWC), self.dim), 0.5, np.float32)

  def texts(self, captions):
    self.captions += captions
    return np.full((len(captions), self.dim), 0.5, np.float32)


class Network:
  """Sees no transition, and counts the videos."""

  size = (27, 48)

  def __init__(self):
    self.num_videos = 0

  def __call__(self, frames_FHWC):
    self.num_videos += 1
    return np.zeros((2, len(frames_FHWC)), np.float32)


def describe(clips):
  return [f'of {clip.key}' for clip in clips]


def ingest_(root):
  ingest.ingest(str(root / 'in'), str(root / 'out'), validation_fraction=0.1, num_processes=1)


def curate_(directory, **options):
  return curate.curate(str(directory), RULES, num_processes=1, **options)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp('growth')
  corpora.write_folder(root / 'in', NUM_FIRST)
  ingest_(root)
  return root


@pytest.fixture
def root(made, tmp_path):
  """An input and its corpus."""
  return pathlib.Path(shutil.copytree(made, tmp_path / 'root'))


def grow(root):
  """Four more videos, of which one is a copy of an old one."""
  corpora.write_folder(root / 'in', NUM_ALL - 1)
  shutil.copy(root / 'in/007.mp4', root / 'in/x.mp4')
  (root / 'in/x.txt').write_text('a copy')
  ingest_(root)


@pytest.fixture
def calls(monkeypatch):
  """Counts what children are asked to look at."""
  found = []
  call = sandbox.Sandbox.__call__
  counted = lambda self, *arguments: found.append(arguments) or call(self, *arguments)  # noqa: E731
  monkeypatch.setattr(sandbox.Sandbox, '__call__', counted)
  return found


def rows_of(directory, stage):
  """By key."""
  rows = {}
  for file in sorted(pathlib.Path(directory, 'sidecar', stage).glob('*.parquet')):
    found = parquet.read_table(file).to_pylist()
    base = parquet.read_table(pathlib.Path(directory, 'sidecar', file.name), columns=['key'])
    assert [row['key'] for row in found] == base['key'].to_pylist()
    rows |= {row['key']: row for row in found}
  return rows


def test_curate_measures_what_is_new_and_decides_on_all(root, calls):
  summary = curate_(root / 'out')
  assert (
    len(calls) == NUM_FIRST == summary['num_examples'] and not summary['funnel'][-1]['num_broken']
  )
  index.index(dict(corpus=str(root / 'out')), str(root / 'index'))
  grow(root)
  assert any('run curate again' in p for p in verify.verify(str(root / 'out')).problems)
  with pytest.raises(ValueError, match='has grown since it was curated: run python -m'):
    index.index(dict(corpus=str(root / 'out')), str(root / 'index'))
  calls.clear()
  assert curate_(root / 'out')['num_examples'] == NUM_ALL
  assert len(calls) == NUM_ALL - NUM_FIRST
  rows = rows_of(root / 'out', 'curate')
  assert len(rows) == NUM_ALL and rows['x.mp4']['dup_group'] == rows['007.mp4']['dup_group']
  assert [rows[key]['reject'] for key in ('007.mp4', 'x.mp4')].count(['duplicate']) == 1
  assert not verify.verify(str(root / 'out'), num_processes=1).problems
  # All of it is as if it were measured at once.
  anew = pathlib.Path(shutil.copytree(root / 'out', root / 'anew'))
  shutil.rmtree(anew / '_measured')
  curate_(anew)
  assert contents(anew / 'sidecar') == contents(root / 'out/sidecar')
  corpus = reader.Corpora(dict(corpus=str(root / 'out')), 'train')
  with pytest.raises(
    ValueError, match=r"corpus 'corpus' has grown since the index .* index .* another --output"
  ):
    table_lib.read(root / 'index', corpus)
  found = index.index(dict(corpus=str(root / 'out')), str(root / 'index'))
  assert len(table_lib.read(root / 'index', corpus).rows) == found['num_rows']


def test_a_killed_curate_of_a_grown_corpus_goes_on(root, calls, monkeypatch):
  curate_(root / 'out')
  grow(root)
  num_parts = len(list((root / 'out/_measured').glob(f'*/{jobs.MARKER}')))
  with monkeypatch.context() as patch:
    patch.setattr(decide, 'Decisions', None)
    with pytest.raises(TypeError):
      curate_(root / 'out')
  calls.clear()
  curate_(root / 'out')
  assert not calls and len(list((root / 'out/_measured').glob(f'*/{jobs.MARKER}'))) > num_parts


def test_another_hook_measures_all_anew(root, calls):
  curate_(root / 'out')
  calls.clear()
  curate_(root / 'out', hooks=dict(watermark_score='numpy:mean'))
  assert len(calls) == NUM_FIRST


def test_score_scores_what_is_new_and_what_has_other_shots(root):
  scorer = Scorer(root)
  score.score(str(root / 'out'), scorer, batch_size=1)
  assert len(scorer.captions) == NUM_FIRST
  grow(root)
  scorer.captions.clear()
  assert score.score(str(root / 'out'), scorer, batch_size=1)['num_scored'] == NUM_ALL
  assert (
    len(scorer.captions) == NUM_ALL - NUM_FIRST and len(rows_of(root / 'out', 'score')) == NUM_ALL
  )
  curate_(root / 'out')
  scorer.captions.clear()
  score.score(str(root / 'out'), scorer, batch_size=1)
  assert len(scorer.captions) == NUM_ALL  # Now it knows where shots begin.
  path = root / 'out/sidecar/curate/train-00001.parquet'
  found = parquet.read_table(path)
  spans = [end / 2 for end in found['span_end'].to_pylist()]
  place = found.column_names.index('span_end')
  parquet.write_table(found.set_column(place, found.schema.field('span_end'), [spans]), path)
  scorer.captions.clear()
  score.score(str(root / 'out'), scorer, batch_size=1)
  assert len(scorer.captions) == len(found)


def test_shots_are_found_in_what_is_new_before_curate_takes_them(root):
  (root / 'weights').write_bytes(b'weights')
  network = Network()
  transitions.find(str(root / 'out'), network, str(root / 'weights'))
  curate_(root / 'out')
  grow(root)
  with pytest.raises(ValueError, match='has grown since `score --shots` found'):
    curate_(root / 'out')
  assert network.num_videos == NUM_FIRST
  transitions.find(str(root / 'out'), network, str(root / 'weights'))
  assert network.num_videos == NUM_ALL == curate_(root / 'out')['num_examples']


def test_captions_are_asked_of_what_is_new(root, calls):
  source = caption_shard.Source('mine', captioners.ByFunction(f'{__name__}:describe'))
  caption.caption(str(root / 'out'), source, num_processes=1)
  assert len(calls) == NUM_FIRST
  before = earlier.editions(reader.Corpora({'corpus': root / 'out'}, 'train'))
  grow(root)
  calls.clear()
  summary = caption.caption(str(root / 'out'), source, num_processes=1)
  assert len(calls) == NUM_ALL - NUM_FIRST and summary['num_captions'] == 2 * NUM_ALL
  rows = rows_of(root / 'out', 'caption')
  assert all(row['captions'][1]['text'] == f'of {key}' for key, row in rows.items())
  # Steps of before it grew can be looked at too.
  then = earlier.as_they_were({'corpus': root / 'out'}, before)
  [drawn] = captions_lib.Captions(then).draw([3], [0], [0.9])
  assert drawn == f'of {then.key(3)}'


def test_a_part_is_done_again_if_its_item_is_another(tmp_path):
  parts = epath.Path(tmp_path / 'parts')
  for stamps, kept in (('ab', []), ('ab', [0, 1]), ('abc', [0, 1]), ('axc', [0, 2]), ('a', [0])):
    with jobs.claimed(parts, 'same', stamps=list(stamps)):
      assert [i for i in range(3) if jobs.part(parts, i).exists()] == kept
      for i in range(len(stamps)):
        jobs.part(parts, i).mkdir(exist_ok=True)
  assert json.loads((parts / 'stamps.json').read_text()) == ['a']
  (parts / 'stamps.json').unlink()  # Of an older version.
  with jobs.claimed(parts, 'same', stamps=['b']):
    assert jobs.part(parts, 0).exists()
  with jobs.claimed(parts, 'other', stamps=['b']):
    assert not jobs.part(parts, 0).exists()
