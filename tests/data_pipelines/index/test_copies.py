"""Over all corpora of an index, no copy of what is held out or denied is trained on, and no copy
twice."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import reader
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import seen
from tests import media

BUCKET = dict(frames=2, height=32, width=32, fps=8.0)


def write(path, *seeds, scale=1):
  """A camera's pan over a scene for each seed, one shot after the other; a scale of 2 leaves every
  second pixel."""
  scenes = [media.scene(seed, 140, 220)[::scale, ::scale] for seed in seeds]
  frames = np.stack(
    [scene[:, 2 * i // scale : (2 * i + 128) // scale] for scene in scenes for i in range(30)]
  )
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(demo_corpus.encode_video(frames, 24))
  path.with_suffix('.txt').write_text(path.stem)


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
  """a: three videos; b: smaller copies of two of them, of which one is held out, and another."""
  root = tmp_path_factory.mktemp('copies')
  for seed, name in enumerate(('held_out', 'twice', 'once')):
    write(root / 'in_a' / f'{name}.mp4', seed)
  write(root / 'in_b/val/v.mp4', 0, scale=2)
  write(root / 'in_b/train/small.mp4', 1, scale=2)
  write(root / 'in_b/train/other.mp4', 7)
  found = {}
  for name in ('a', 'b'):
    found[name] = str(root / name)
    fraction = dict(validation_fraction=0.0) if name == 'a' else {}
    ingest.ingest(str(root / f'in_{name}'), found[name], num_processes=1, **fraction)
    curate.curate(found[name], decide.Rules(min_short_side=16, min_duration=0.1), num_processes=1)
  return found


def keys(corpora, folder):
  opened = reader.Corpora(corpora, 'train')
  return {opened.key(row) for row in np.load(folder / 'order.u32.npy')}


def test_what_one_corpus_holds_out_the_others_do_not_train_on(corpora, tmp_path, capsys):
  flags = [f'--corpus={name}={path}' for name, path in corpora.items()]
  commands.main(['index', *flags, f'--output={tmp_path}'])
  assert keys(corpora, tmp_path) == {'twice.mp4', 'once.mp4', 'train/other.mp4'}
  said = capsys.readouterr().out
  assert '4 no copy of what a corpus holds out  -1' in said
  assert '3 no copy of another corpus  -1' in said
  commands.main(['index', *flags, f'--output={tmp_path}', '--keep_copies'])
  assert keys(corpora, tmp_path) == {'twice.mp4', 'once.mp4', 'train/other.mp4', 'train/small.mp4'}


def test_the_best_copy_of_those_that_conditions_leave_is_kept(corpora, tmp_path):
  index.index(corpora, str(tmp_path), where=["key != 'twice.mp4'"])
  assert keys(corpora, tmp_path) == {'once.mp4', 'train/other.mp4', 'train/small.mp4'}


def curate_(directory, **options):
  rules = options.pop('rules', decide.Rules(min_short_side=16, min_duration=0.1))
  return curate.curate(directory, rules, num_processes=1, **options)


@pytest.mark.parametrize(
  'rules',
  [
    dict(min_short_side=100),  # Drops the held-out copy, so that the other is the best one.
    dict(min_short_side=16, keep_duplicates=True),
  ],
)
def test_no_shot_of_a_copy_of_a_held_out_video_is_drawn(tmp_path, rules):
  write(tmp_path / 'in/val/film.mp4', 0, 1, scale=2)
  write(tmp_path / 'in/train/film.mp4', 0, 1)
  write(tmp_path / 'in/train/other.mp4', 7, 8)
  directory = str(tmp_path / 'corpus')
  ingest.ingest(str(tmp_path / 'in'), directory, num_processes=1)
  summary = curate_(directory, rules=decide.Rules(min_duration=0.1, **rules))
  assert summary['num_spans_kept'] == 4 + 2 * (rules['min_short_side'] < 70)
  manifest = index.index({'c': directory}, str(tmp_path / 'index'), where=['keep or true'])
  assert manifest['has_spans'] and manifest['num_rows'] == 2
  assert keys({'c': directory}, tmp_path / 'index') == {'train/other.mp4'}
  assert manifest['funnel'][-1] == dict(condition='no copy of what a corpus holds out', num_rows=2)


def test_the_bytes_of_a_held_out_file_are_not_drawn_if_nothing_is_curated(tmp_path):
  write(tmp_path / 'in/val/v.mp4', 0)
  write(tmp_path / 'in/train/other.mp4', 7)
  shutil.copy(tmp_path / 'in/val/v.mp4', tmp_path / 'in/train/copy.mp4')
  (tmp_path / 'in/train/copy.txt').write_text('a copy')
  ingest.ingest(str(tmp_path / 'in'), str(tmp_path / 'corpus'), num_processes=1)
  index.index({'c': str(tmp_path / 'corpus')}, str(tmp_path / 'index'))
  assert keys({'c': tmp_path / 'corpus'}, tmp_path / 'index') == {'train/other.mp4'}


@pytest.fixture
def denied(corpora, tmp_path):
  """Both corpora, of which a denies twice.mp4; b has a smaller copy of it."""
  found = {name: shutil.copytree(path, tmp_path / name) for name, path in corpora.items()}
  (tmp_path / 'denied.txt').write_text('')
  sidecar = next(pathlib.Path(found['a']).glob('sidecar/*.parquet'))
  [digest] = [
    row['sha256'] for row in parquet.read_table(sidecar).to_pylist() if row['key'] == 'twice.mp4'
  ]
  (tmp_path / 'denied.txt').write_text(digest)
  curate_(found['a'], denylists=[str(tmp_path / 'denied.txt')])
  return {name: str(path) for name, path in found.items()}


def test_what_one_corpus_denies_the_others_do_not_train_on(denied, tmp_path):
  manifest = index.index(denied, str(tmp_path / 'index'), where=['keep or true'], keep_copies=True)
  assert keys(denied, tmp_path / 'index') == {'once.mp4', 'train/other.mp4'}
  assert 'no copy of what a corpus denies' in [step['condition'] for step in manifest['funnel']]


def test_what_is_denied_is_never_drawn(denied, tmp_path):
  one = dict(a=denied['a'])
  index.index(one, str(tmp_path / 'index'), where=['keep or true'])
  assert keys(one, tmp_path / 'index') == {'held_out.mp4', 'once.mp4'}


def test_steps_that_drew_a_copy_of_what_another_corpus_denies_are_seen(denied, tmp_path):
  data = dict(directories=denied, index='', buckets=dict(v=dict(BUCKET, batch_size=2)))
  config = dict(data=data, seed=0, train=dict(num_steps=6))
  config['image_encoder'] = dict(model=dict(image_size=16))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  run = seen.Seen(str(tmp_path))
  assert {key for step in run.steps(6) for key in step['keys']} == {'twice.mp4', 'train/small.mp4'}


def test_decisions_that_are_not_all_written_are_no_decisions(corpora, tmp_path):
  directory = shutil.copytree(corpora['a'], tmp_path / 'a')
  (directory / 'sidecar/curate/manifest.json').unlink()  # As of one that was killed.
  with pytest.raises(ValueError, match='sidecar/curate is not whole: `curate` was stopped'):
    index.index({'a': str(directory)}, str(tmp_path / 'index'))
  curate_(str(directory))
  index.index({'a': str(directory)}, str(tmp_path / 'index'))
