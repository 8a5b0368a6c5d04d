"""Each row is drawn once per epoch, though corpora, index, batches or weights change in mid-run."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from data_pipelines.corpus import schema
from data_pipelines.stream import fields, history, seen
from data_pipelines.stream import stream as stream_lib
from i2vgen_jax.training import data as data_lib
from tests import corpora as corpora_lib


@pytest.fixture
def bucket():
  yield from corpora_lib.bucket()


def write_corpus(folder, name, shards):
  """A corpus of sidecars alone, of so many rows in each shard; told again with more, it grows."""
  rng = np.random.default_rng(len(name))
  found = []
  for number, count in enumerate(shards):
    records, sidecar = (f'{kind}-{number:05d}.parquet' for kind in ('records', 'sidecar/train'))
    path = folder / sidecar
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = dict(key=[f'{name} {number} {i}' for i in range(count)], media=['video'] * count)
    columns |= dict(duration=[9.0] * count, fps=[24.0] * count)
    columns |= dict(height=rng.choice([32, 64], count), width=rng.choice([32, 64], count))
    columns |= dict(first_time=[0.0] * count, longest_gap=[0.0] * count)
    parquet.write_table(pa.table(columns), path)
    digest = f'{name} {number} {count}'
    found.append(dict(records=records, sidecar=sidecar, num_examples=count, sha256=digest))
  fingerprint = ' '.join(shard['sha256'] for shard in found)
  manifest = dict(version=schema.VERSION, fingerprint=fingerprint, splits={'train': {}})
  manifest['splits']['train']['shards'] = found
  (folder / 'manifest.json').write_text(json.dumps(manifest))
  return str(folder)


def write_index(folder, directories, cells):
  """An index of cells, by name the rows (with several of a row, its shots)."""
  folder.mkdir(parents=True)
  order = np.concatenate([np.sort(rows) for rows in cells.values()]).astype(np.uint32)
  # By place, how many of the same row there are before it.
  shots = [
    np.arange(len(rows)) - np.searchsorted(np.sort(rows), np.sort(rows)) for rows in cells.values()
  ]
  columns = dict(first_time=np.zeros(len(order)), duration=np.full(len(order), 9.0))
  columns |= dict(fps=np.full(len(order), 24.0), order=order)
  columns |= dict(span=np.concatenate(shots).astype(np.uint32))
  for name, values in columns.items():
    np.save(folder / f'{name}.x.npy', values)
  stops = np.cumsum([len(rows) for rows in cells.values()]).tolist()
  corpora = {
    name: dict(
      fingerprint=json.loads(pathlib.Path(path, 'manifest.json').read_text())['fingerprint']
    )
    for name, path in sorted(directories.items())
  }
  manifest = dict(version=1, corpora=corpora, has_spans=True, fingerprint=str(order.tobytes()))
  manifest['balance'] = dict(alpha=0.5)
  manifest['cells'] = [
    dict(name=name, media='video', places=[start, stop], min_duration=9.0, min_fps=24.0)
    for name, start, stop in zip(cells, [0, *stops], stops, strict=False)
  ]
  (folder / 'manifest.json').write_text(json.dumps(manifest))
  return str(folder)


def config_of(directories, batch_size=4, **data):
  shape = dict(frames=2, height=32, width=32, fps=8.0)
  buckets = {
    'short': dict(shape, batch_size=batch_size),
    'long': dict(shape, frames=4, batch_size=2 * batch_size),
  }
  data = dict(directories=directories, buckets=buckets, index='', sources={}, phases=[]) | data
  data |= dict(accept_changed=True, exact_epochs=data.get('exact_epochs', True))
  return dict(data=data, seed=3, image_encoder=dict(model=dict(image_size=16)))


class Run:
  """A run that only draws, and checks that nothing comes twice or stays out within an epoch."""

  def __init__(self, workdir):
    self.workdir = workdir
    self.step, self.position = 0, None
    self.drawn = set()  # (group, row) of the epochs under way.
    self.log = []

  def resume(self, config, position=None, drawn=None, **hosts):
    self.stream = stream_lib.from_config(config, [fields.Fps()], sandbox=False, **hosts)
    self.position = position or self.position
    if drawn is not None:
      self.drawn = set(drawn)
    if self.position:
      # As a checkpoint stores it.
      self.position = json.loads(json.dumps(self.position))
      self.step = self.position['step']
      data_lib.resume(self.position, self.stream, self.workdir, config['data'])
    self.cells = {}
    for bucket in self.stream.order.buckets:
      for number, cell in enumerate(bucket.cells):
        rows = {self.identity(bucket, place) for place in cell.cell.places}
        self.cells[bucket.bucket.name, number] = rows
    self.drawn &= set().union(*self.cells.values())
    for rows in self.cells.values():
      if rows <= self.drawn:
        self.drawn -= rows
    return self

  def identity(self, bucket, place):
    table, corpora = self.stream.order.table, self.stream.corpora
    row = table.row(place)
    number = int(np.searchsorted(corpora.corpus_starts, row, side='right')) - 1
    start = corpora.corpus_starts[number]
    return bucket.bucket.group, corpora.names[number], row - start, table.span(place)

  def go(self, num_steps):
    for _ in range(num_steps):
      number, indices = self.stream.order[self.step]
      bucket = self.stream.order.buckets[number]
      for index in indices:
        _, (cell, place) = bucket[index]
        row, rows = self.identity(bucket, place), self.cells[bucket.bucket.name, cell]
        assert row in rows and row not in self.drawn, f'{row} comes twice at step {self.step}'
        self.drawn.add(row)
        self.log.append((self.step, row))
        if rows <= self.drawn:
          self.drawn -= rows
      self.step += 1
    self.position = data_lib.data_position(self.step, self.stream)
    return self


@pytest.fixture
def corpora(tmp_path):
  return {
    name: write_corpus(tmp_path / name, name, shards)
    for name, shards in (('a', [60, 31]), ('b', [37]))
  }


def indexed(tmp_path, directories, name, cells):
  return write_index(tmp_path / name, directories, {key: np.array(v) for key, v in cells.items()})


def test_another_batch_size_in_mid_epoch(corpora, tmp_path):
  run = Run(tmp_path).resume(config_of(corpora)).go(7)
  run.resume(config_of(corpora, 5)).go(70)
  assert len(run.log) > 4 * 128  # Both buckets are in their second epoch or later.
  cells = dict(low=range(0, 70), high=range(70, 128))
  index = indexed(tmp_path, corpora, 'index', cells)
  run = Run(tmp_path / 'indexed').resume(config_of(corpora, index=index)).go(9)
  run.resume(config_of(corpora, 3, index=index)).go(90)
  run = Run(tmp_path / 'weighted').resume(config_of(corpora, sources=dict(a=1, b=3))).go(9)
  run.resume(config_of(corpora, 7, sources=dict(a=2, b=1))).go(50)


def test_a_cell_of_the_same_rows_goes_on_in_the_same_order(corpora, tmp_path):
  straight = Run(tmp_path / 'straight').resume(config_of(corpora)).go(70)
  changed = Run(tmp_path / 'changed').resume(config_of(corpora)).go(7)
  changed.resume(config_of(corpora, 8)).go(32)
  for group in ('short', 'long'):
    rows = [[row for _, row in run.log if row[0] == group] for run in (straight, changed)]
    length = min(map(len, rows))
    assert length > 128 and rows[0][:length] == rows[1][:length]


def test_a_corpus_is_added_and_another_taken_away(corpora, tmp_path):
  run = Run(tmp_path).resume(config_of(dict(a=corpora['a']))).go(9)
  before = len(run.log)
  run.resume(config_of(corpora)).go(9)
  assert {row[1] for _, row in run.log[before:]} == {'a', 'b'}
  before = len(run.log)
  run.resume(config_of(dict(b=corpora['b']))).go(30)
  assert {row[1] for _, row in run.log[before:]} == {'b'}


@pytest.mark.parametrize('steps', [0, 1, 9, 31])
def test_a_corpus_grows_at_its_end(corpora, tmp_path, steps):
  run = Run(tmp_path).resume(config_of(corpora)).go(steps)
  write_corpus(tmp_path / 'a', 'a', [60, 31, 40])
  run.resume(config_of(corpora)).go(60)
  assert max(row[2] for _, row in run.log) == 130
  write_corpus(tmp_path / 'b', 'b', [37, 1, 5])
  run.resume(config_of(corpora)).go(60)


def test_an_index_takes_rows_away_adds_some_and_moves_others(corpora, tmp_path):
  cells = dict(low=range(0, 60), high=range(60, 100))
  first = indexed(tmp_path, corpora, 'first', cells)
  run = Run(tmp_path).resume(config_of(corpora, index=first)).go(11)
  cells = dict(low=[*range(10, 70)], high=[*range(70, 128), 75, 75, 80])
  second = indexed(tmp_path, corpora, 'second', cells)
  run.resume(config_of(corpora, index=second)).go(90)
  assert {row[2:] for _, row in run.log} >= {(75, 2), (80, 1)}
  run.resume(config_of(corpora)).go(60)  # Also from an index to none.


def test_aspects_that_rows_move_between(corpora, tmp_path):
  """A third aspect takes its rows out of another, in the middle of the epochs of both."""
  runs = Run(tmp_path)
  for sizes, steps in (([[256, 256], [192, 384]], 13), ([[256, 256], [192, 384], [384, 192]], 90)):
    config = config_of(corpora, aspects=sizes, max_crop=0.9, max_enlarge=12.0)
    for bucket in config['data']['buckets'].values():
      bucket |= dict(height=256, width=256)
    runs.resume(config).go(steps)
    assert len(runs.cells) == 2 * len(sizes)


def test_phases_whose_weights_change(corpora, tmp_path):
  phases = [dict(start=5, buckets=dict(short=1, long=3)), dict(start=20, sources=dict(a=1, b=9))]
  run = Run(tmp_path).resume(config_of(corpora, phases=phases)).go(12)
  phases = [dict(start=8, buckets=dict(short=2, long=1)), dict(start=30, buckets=dict(short=1))]
  run.resume(config_of(corpora, 5, phases=phases)).go(80)


@pytest.mark.parametrize('seed', range(12))
def test_any_changes_one_after_the_other(tmp_path, seed):
  rng = np.random.default_rng(seed)
  run, shards, directories = Run(tmp_path / 'run'), {}, {}
  for change in range(4):
    for name in 'abc':
      if rng.random() < 0.5 or not shards:
        shards[name] = [*shards.get(name, []), int(rng.integers(1, 40))]
        directories[name] = write_corpus(tmp_path / name, name, shards[name])
    names = [name for name in shards if rng.random() < 0.8] or [*shards]
    drawn = {name: directories[name] for name in names}
    total = sum(sum(shards[name]) for name in names)
    options = {}
    if rng.random() < 0.5:
      chosen = rng.choice(total, int(rng.integers(1, total + 1)), replace=False)
      chosen = np.concatenate([chosen, rng.choice(chosen, 3)])  # Some have several shots.
      cell = rng.integers(0, 3, total)
      cells = {f'cell {i}': chosen[cell[chosen] == i] for i in range(3)}
      cells = {name: rows for name, rows in cells.items() if len(rows)}
      options['index'] = write_index(tmp_path / f'index {change}', drawn, cells)
    if rng.random() < 0.4:
      options['sources'] = {name: float(rng.integers(1, 4)) for name in names}
    config = config_of(drawn, int(rng.integers(1, 9)), **options)
    try:
      run.resume(config)
    except ValueError as error:
      assert 'none of the sources' in str(error)  # The index has none of a corpus' rows.
      continue
    run.go(int(rng.integers(0, 40)))
  run.go(60)


def test_a_run_that_stops_after_a_change_draws_as_one_that_does_not(corpora, tmp_path):
  run = Run(tmp_path).resume(config_of(corpora)).go(9)
  write_corpus(tmp_path / 'a', 'a', [60, 31, 40])
  changed = config_of(corpora, 8)
  straight = run.resume(changed).stream
  run.go(6)
  assert straight.fingerprint == run.position['fingerprint']
  for count in (1, 2, 4):
    for host in range(count):
      again = Run(tmp_path).resume(changed, run.position, host_index=host, host_count=count)
      assert again.stream.fingerprint == straight.fingerprint
      steps = range(15, 60)
      assert [*map(again.stream.order.rows, steps)] == [*map(straight.order.rows, steps)]
  assert Run(tmp_path).resume(changed).stream.fingerprint != straight.fingerprint


def test_a_run_that_goes_back_to_before_a_change_makes_another(corpora, tmp_path):
  """What the abandoned change left in the workdir does not matter."""
  run = Run(tmp_path).resume(config_of(corpora)).go(9)
  before, drawn = run.position, set(run.drawn)
  run.resume(config_of(corpora, 8)).go(6)
  abandoned = history.newest(tmp_path)
  run.resume(config_of(corpora, 3), before, drawn).go(70)
  assert history.newest(tmp_path) not in ('', abandoned)
  unchanged = Run(tmp_path).resume(config_of(corpora), before, drawn)
  assert unchanged.stream.fingerprint == before['fingerprint'] and not history.newest(tmp_path)
  unchanged.go(40)
  write_corpus(tmp_path / 'a', 'a', [60, 31, 40])
  run.resume(config_of(corpora, 8), before, drawn).go(40)
  names = {path.name for path in (tmp_path / history.FOLDER).iterdir()}
  assert len(names) == 4 and f'{abandoned}.npz' in names  # Three changes, and now.json.


def test_what_an_exact_change_needs_and_is_gone_is_named(corpora, tmp_path):
  cells = dict(low=range(0, 70), high=range(70, 128))
  index = indexed(tmp_path, corpora, 'index', cells)
  run = Run(tmp_path / 'run').resume(config_of(corpora, index=index)).go(9)
  missing = rf'(?s)are gone.*{index} holds no index.*--config.data.exact_epochs=False'
  another = indexed(tmp_path, corpora, 'another', dict(low=range(0, 99)))
  pathlib.Path(index).rename(tmp_path / 'moved')
  position = run.position
  with pytest.raises(ValueError, match=missing):
    run.resume(config_of(corpora, index=another))
  moved = config_of(corpora, 8, index=str(tmp_path / 'moved'))
  run.resume(moved).go(40)  # It is the same, elsewhere.
  write_corpus(tmp_path / 'a', 'a', [60, 30])
  with pytest.raises(ValueError, match=r"another corpus now in the place of 'a' \("):
    run.resume(config_of(corpora), position)
  run.drawn = set()
  run.resume(config_of(corpora, exact_epochs=False), position).go(40)
  del position['origin']
  with pytest.raises(ValueError, match='a version that did not store'):
    run.resume(config_of(corpora), position)


def test_an_index_that_was_made_again_in_its_folder_is_named(corpora, tmp_path):
  index = indexed(tmp_path, corpora, 'index', dict(low=range(0, 70), high=range(70, 128)))
  run = Run(tmp_path / 'run').resume(config_of(corpora, index=index)).go(9)
  write_corpus(tmp_path / 'a', 'a', [60, 31, 40])
  shutil.rmtree(index)
  indexed(tmp_path, corpora, 'index', dict(low=range(0, 168)))
  message = 'are gone, .*made again in the same folder.*exact_epochs=False'
  with pytest.raises(ValueError, match=message):
    run.resume(config_of(corpora, index=index))


def test_a_change_that_is_gone_or_damaged_is_named(corpora, tmp_path):
  run = Run(tmp_path).resume(config_of(corpora)).go(9)
  run.resume(config_of(dict(a=corpora['a']))).go(1)
  [path] = (tmp_path / history.FOLDER).glob('*.npz')
  content = path.read_bytes()
  assert history.Change.parse(content).name == path.stem  # And padding the bits adds nothing.
  path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(ValueError, match=f'{path.name} is damaged'):
    run.resume(config_of(dict(a=corpora['a'])))
  path.unlink()
  with pytest.raises(ValueError, match=f'{path.name} is gone'):
    run.resume(config_of(dict(a=corpora['a'])))


def test_captions_that_change_alone_are_no_change_of_the_order(corpora, tmp_path):
  run = Run(tmp_path).resume(config_of(corpora)).go(9)
  run.position['fingerprint'] = 'that of other captions'
  run.resume(config_of(corpora)).go(40)
  assert not history.newest(tmp_path)


def test_one_of_several_processes_writes_what_all_know(corpora, tmp_path, monkeypatch):
  run = Run(tmp_path / 'run').resume(config_of(corpora)).go(9)
  position, changed = run.position, config_of(dict(a=corpora['a']))
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'process_index', lambda: 1)
    other = run.resume(changed, position).stream.fingerprint
  assert not (tmp_path / 'run').exists()
  assert run.resume(changed, position).stream.fingerprint == other
  assert len(list((tmp_path / 'run' / history.FOLDER).iterdir())) == 2


def test_a_workdir_may_be_a_bucket(corpora, bucket):
  run = Run('gs://held/run').resume(config_of(corpora)).go(9)
  run.resume(config_of(dict(a=corpora['a']))).go(4)
  run.resume(config_of(dict(a=corpora['a']))).go(40)
  assert history.newest('gs://held/run') == run.position['origin']['change']


def test_seen_knows_the_steps_before_and_after_changes_as_far_as_their_data_are_there(
  corpora, tmp_path
):
  workdir = tmp_path / 'run'
  cells = dict(low=range(0, 70), high=range(70, 128))
  first = config_of(corpora, index=indexed(tmp_path, corpora, 'first', cells))
  run = Run(workdir).resume(first).go(9)
  write_corpus(tmp_path / 'a', 'a', [60, 31, 40])
  config = config_of(corpora, 8)
  run.resume(config).go(8)
  workdir.joinpath('config.json').write_text(json.dumps(config | dict(train=dict(num_steps=17))))
  sought = seen.Seen(str(workdir), "key in ('b 0 5', 'a 2 7')")
  steps = [(found['step'], found['keys']) for found in sought.steps(17)]
  wanted = {('b', 5): 'b 0 5', ('a', 98): 'a 2 7'}
  assert len(steps) > 2 and steps == [
    (step, sorted(keys))
    for step in range(17)
    if (keys := [wanted[row[1:3]] for at, row in run.log if at == step and row[1:3] in wanted])
  ]
  (tmp_path / 'first').rename(tmp_path / 'gone')
  with pytest.raises(ValueError, match='steps before 9 are gone.*first holds no index.*--since'):
    seen.Seen(str(workdir), 'true')
  late = seen.Seen(str(workdir), "key in ('b 0 5', 'a 2 7')", since=9)
  assert [found['step'] for found in late.steps(17)] == [step for step, _ in steps if step >= 9]
