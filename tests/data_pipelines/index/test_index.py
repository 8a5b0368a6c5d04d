"""An index draws what its conditions leave, in the shares that it promises."""

import collections
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from configs import refine_hq
from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets, lease, reader
from data_pipelines.index import command as index
from data_pipelines.index import table
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib
from tests import corpora as corpora_lib

VIDEO = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)
IMAGE = buckets.Bucket('image', 1, 32, 32, fps=1, batch_size=4, media='image')


def write_stage(directory, stage='curate', seed=0):
  """Scores as `curate` writes them: beside ingest's sidecars, row by row; some are unknown."""
  rng = np.random.default_rng(seed)
  for path in pathlib.Path(directory).glob('sidecar/*.parquet'):
    known = parquet.read_table(path)
    count = known.num_rows
    scores = {name: rng.random(count).astype(np.float32) for name in ('motion', 'aesthetic')}
    scores['motion'][::10] = np.nan
    rows = dict(
      key=known['key'],
      keep=(keep := rng.random(count) < 0.9),
      reject=pa.array([[] if kept else ['duration', 'motion'] for kept in keep]),
      aesthetic=pa.array(scores['aesthetic'], mask=rng.random(count) < 0.1),
      motion=scores['motion'],
      span_start=known['first_time'].to_numpy() + 0.125,
      span_end=known['first_time'].to_numpy() + known['duration'].to_numpy(),
    )
    (path.parent / stage).mkdir(exist_ok=True)
    parquet.write_table(pa.table(rows), path.parent / stage / path.name)
  corpora_lib.finish_stage(directory, stage)


@pytest.fixture(scope='module')
def corpora(tmp_path_factory):
  root = tmp_path_factory.mktemp('index')
  demo_corpus.write(str(root / 'demo'), num_videos=120, num_validation=4, num_images=40)
  for name, source in (('videos', 'webvid'), ('images', 'images')):
    ingest.ingest(str(root / 'demo' / source), str(root / name), num_processes=2)
  write_stage(root / 'videos')
  return {name: str(root / name) for name in ('videos', 'images')}


def sidecar(corpora):
  """Both corpora's rows as training numbers them: ingest's columns and curate's."""
  opened = reader.Corpora(corpora, 'train')
  rows = []
  for path in opened.sidecars:
    known = parquet.read_table(path).to_pylist()
    stage = path.parent / 'curate' / path.name
    added = parquet.read_table(stage).to_pylist() if stage.exists() else [{}] * len(known)
    rows += [a | b for a, b in zip(known, added, strict=True)]
  return rows


def test_conditions_leave_what_they_say_and_the_funnel_counts_it(corpora, tmp_path):
  where = ["media = 'image' or motion > 0.3 or isnan(motion)", 'height >= 64']
  manifest = index.index(corpora, str(tmp_path), where=where)
  rows = sidecar(corpora)
  kept = [i for i, row in enumerate(rows) if row.get('keep', True)]
  moving = [i for i in kept if rows[i]['media'] == 'image' or not rows[i]['motion'] <= 0.3]
  assert [step['num_rows'] for step in manifest['funnel']] == [
    len(rows), len(kept), len(moving), len(moving),
  ]  # fmt: skip
  assert 0 < len(moving) < len(kept) < len(rows)
  order = np.load(tmp_path / 'order.u32.npy')
  assert sorted(order.tolist()) == moving
  found = {
    name: np.load(next(tmp_path.glob(f'{name}.*.npy'))) for name in ('first_time', 'duration')
  }
  for place, row in enumerate(order):
    known = rows[row]
    start, end = known['first_time'], known['first_time'] + known['duration']
    if known['media'] == 'video':  # `curate` found a shot.
      start, end = known['span_start'], known['span_end']
    assert found['first_time'][place] == pytest.approx(start)
    assert found['duration'][place] == pytest.approx(end - start)


def test_a_condition_that_drops_all_images_is_warned_of(corpora, tmp_path, caplog):
  index.index(corpora, str(tmp_path), where=['height >= 64', 'motion > 0.3'], dry_run=True)
  assert caplog.text.count('No image is left: motion > 0.3 drops the last ') == 1
  caplog.clear()
  where = ["media = 'image' or (motion > 0.3)"]  # As it says.
  index.index(corpora, str(tmp_path), where=where, dry_run=True)
  index.index({'videos': corpora['videos']}, str(tmp_path), where=['motion > 0.3'], dry_run=True)
  assert 'No image' not in caplog.text


def test_the_refinements_recipe_is_one_that_index_takes(corpora, tmp_path):
  """Its conditions, as configs/refine_hq.py says them, on small clips of scores from 0 to 1."""
  where = re.findall('--where="(.*?)"', refine_hq.__doc__)
  assert len(where) == 3
  where = [condition.replace('720', '64').replace('>= 5', '>= 0.5') for condition in where]
  videos = {'videos': corpora['videos']}
  manifest = index.index(videos, str(tmp_path), where=where)
  counts = [step['num_rows'] for step in manifest['funnel']]
  assert counts[-1] > 0 and len(set(counts)) >= 4, counts


def test_cells_are_quantiles_and_an_unknown_score_is_a_cell_of_its_own(corpora, tmp_path):
  manifest = index.index(corpora, str(tmp_path), quantiles=3)
  assert manifest['axes'] == ['aesthetic', 'motion']
  rows = sidecar(corpora)
  order = np.load(tmp_path / 'order.u32.npy')
  edges = json.loads((tmp_path / 'cells.json').read_text())['edges']
  assert [len(edges[axis]) for axis in manifest['axes']] == [2, 2]
  for cell in manifest['cells']:
    for row in order[slice(*cell['places'])]:
      assert rows[row]['media'] == cell['media']
      for name, level in (part.split('=') for part in cell['name'].split()[1:]):
        score = rows[row].get(name)
        if level == 'unknown':
          assert score is None or np.isnan(score)
        else:
          assert int(level) == np.searchsorted(edges[name], score, side='right')
  assert any('motion=unknown' in cell['name'] for cell in manifest['cells'])
  known = [c['places'] for c in manifest['cells'] if 'unknown' not in c['name']]
  assert len(known) == 9
  again = index.index(
    corpora, str(tmp_path / 'other'), ['motion > 0.5'], edges=str(tmp_path / 'cells.json')
  )
  assert again['edges'] == manifest['edges']


def test_a_score_that_most_rows_lack_is_no_axis_by_itself_and_index_says_so(
  corpora, tmp_path, capsys
):
  corpora = {name: shutil.copytree(path, tmp_path / name) for name, path in corpora.items()}
  paths = sorted(corpora['videos'].glob('sidecar/curate/train-*'))
  for path in paths:
    known = parquet.read_table(path)
    subjects = pa.array([0.3 if i % 4 == 0 else None for i in range(len(known))], pa.float32())
    known = known.append_column('network_subject', subjects)
    known = known.set_column(
      known.column_names.index('aesthetic'), 'aesthetic', pa.nulls(len(known), pa.float32())
    )
    parquet.write_table(known, path)
  directories = {name: str(path) for name, path in corpora.items()}
  command = ['index', f'--output={tmp_path / "index"}', '--quantiles=2']
  command += [f'--corpus={name}={path}' for name, path in directories.items()]
  commands.main(command)
  said = capsys.readouterr().out
  # Most videos have a motion, and no image has: videos are balanced by it, images are one cell.
  cells = {c['name'] for c in table.read_manifest(tmp_path / 'index')['cells']}
  assert cells == {
    'video motion=0',
    'video motion=1',
    'video motion=unknown',
    'image motion=unknown',
  }
  assert 'not an axis: aesthetic is known of no row: nothing is balanced by it' in said
  assert re.search(
    r'not an axis: network_subject is known of 2\d\.\d% of the videos: .*--axes=network_subject',
    said,
  )
  found = index.index(directories, str(tmp_path / 'other'), axes=['network_subject'])
  assert found['axes'] == ['network_subject'] and not found['left_out']


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_cells_are_drawn_in_their_shares(corpora, tmp_path, alpha):
  balance = table.Balance(alpha=alpha, unknown_weight=0.5)
  manifest = index.index(corpora, str(tmp_path), balance=balance)
  stream = open_stream(corpora, tmp_path, [VIDEO])
  counts = {
    cell['name']: cell['places'][1] - cell['places'][0]
    for cell in manifest['cells']
    if cell['media'] == 'video'
  }
  wanted = {
    name: count ** (1 - alpha) * (0.5 if 'unknown' in name else 1) for name, count in counts.items()
  }
  drawn = collections.Counter(
    stream._batches[0]._cells[stream.order.buckets[0][i][1][0]].name for i in range(20_000)
  )
  assert len(counts) > 16
  for name, share in wanted.items():
    assert abs(drawn[name] / 20_000 - share / sum(wanted.values())) < 0.005 / 2


def test_a_cell_is_not_gone_through_more_often_than_allowed():
  counts = np.array([10.0, 100.0, 1000.0])
  balance = table.Balance(alpha=1.0, max_epochs=4, num_draws=2000)
  shares = table.balanced_shares(counts, np.zeros(3, bool), balance)
  assert shares.sum() == pytest.approx(1)
  assert (shares * 2000 <= 4 * counts + 1e-6).all()
  np.testing.assert_allclose(shares * 2000, [40, 400, 1560])
  with pytest.raises(ValueError, match=r'9.0 epochs of 1110 rows, more than max_epochs=4'):
    table.balanced_shares(counts, np.zeros(3, bool), table.Balance(max_epochs=4, num_draws=9990))


def open_stream(corpora, path, bucket_list, **options):
  given = fields.released(lambda captions: np.zeros((len(captions), 2), np.int32), 16)
  return stream_lib.TrainStream(
    corpora, bucket_list, given, seed=0, index=str(path), sandbox=False, **options
  )


def test_training_streams_from_an_index(corpora, tmp_path):
  index.index(corpora, str(tmp_path), ['height >= 64'])
  stream = open_stream(corpora, tmp_path, [VIDEO, IMAGE])
  kept = {row['key'] for row in sidecar(corpora) if row.get('keep', True)}
  for step in range(6):
    assert stream.batch_at(step)['video'].std() > 5
    assert {found['key'] for found in stream.examples_at(step)} <= kept
  parts = [
    open_stream(corpora, tmp_path, [VIDEO, IMAGE], host_index=h, host_count=2) for h in (0, 1)
  ]
  for step in range(3):
    whole = stream.batch_at(step)['video']
    for h, part in enumerate(parts):
      np.testing.assert_array_equal(part.batch_at(step)['video'], whole[h::2])
  everything = stream_lib.TrainStream(
    corpora, [VIDEO, IMAGE], fields.released(len, 16), seed=0, sandbox=False
  )
  assert everything.fingerprint != stream.fingerprint


def test_what_cannot_be_decoded_is_replaced_in_its_cell(corpora, tmp_path):
  damaged = {}
  for name, directory in corpora.items():
    damaged[name] = str(shutil.copytree(directory, tmp_path / name))
  index.index(damaged, str(tmp_path / 'index'), quantiles=2, balance=table.Balance(alpha=1.0))
  sound = open_stream(damaged, tmp_path / 'index', [VIDEO])
  drawn = sound.examples_at(0)[0]
  [row] = [i for i, row in enumerate(sidecar(damaged)) if row['key'] == drawn['key']]
  opened = reader.Corpora(damaged, 'train')
  shard, record = opened.locate(row)
  media = reader.Records().read(shard, record)['data']
  data = pathlib.Path(shard).read_bytes()
  pathlib.Path(shard).write_bytes(data.replace(media, bytes(len(media))))
  used = []
  for _ in range(2):
    stream = open_stream(damaged, tmp_path / 'index', [VIDEO])
    fill = stream._decoder.fill

    def spy(batch, requests, fill=fill):
      used.extend(requests.values())
      return fill(batch, requests)

    stream._decoder.fill = spy
    stream.batch_at(0)
    assert stream.num_bad == 1 and drawn['key'] in stream.bad_examples
  replacements = [used[4], used[9]]
  assert len(used) == 10 and replacements[0] == replacements[1]
  place = opened.starts[opened._shards.index(replacements[0].shard)] + replacements[0].record
  names = {}
  for cell in json.loads((tmp_path / 'index' / 'manifest.json').read_text())['cells']:
    for found in np.load(tmp_path / 'index' / 'order.u32.npy')[slice(*cell['places'])]:
      names[int(found)] = cell['name']
  assert names[place] == drawn['cell'] == names[row] and place != row


def test_indexing_again_does_nothing_and_a_dry_run_writes_nothing(corpora, tmp_path, capsys):
  arguments = [f'--corpus={path}' for path in corpora.values()]
  arguments += [f'--output={tmp_path}/index', '--quantiles=2']
  commands.main(['index', *arguments, '--dry-run'])
  assert not (tmp_path / 'index').exists()
  dry = capsys.readouterr().out
  commands.main(['index', *arguments])
  assert capsys.readouterr().out.replace('index', '') == dry.replace('would write', '').replace(
    'index', ''
  )
  stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / 'index').iterdir()}
  commands.main(['index', *arguments])
  assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / 'index').iterdir()}
  (tmp_path / 'index' / 'manifest.json').unlink()  # As a kill leaves it.
  before = {path.name: path.read_bytes() for path in (tmp_path / 'index').iterdir()}
  commands.main(['index', *arguments])
  after = {path.name: path.read_bytes() for path in (tmp_path / 'index').iterdir()}
  assert before.items() <= after.items() and 'manifest.json' in after


def test_a_second_run_on_an_index_that_is_written_is_refused(corpora, tmp_path):
  (tmp_path / '_written').mkdir()
  held = lease.Lease(tmp_path / '_written', print, 'writes it.')
  with pytest.raises(ValueError, match=f'_written is in use: process {os.getpid()} of'):
    index.index(corpora, str(tmp_path))
  held.release()
  for _ in range(2):  # Then one that was killed at its end.
    index.index(corpora, str(tmp_path))
    assert not (tmp_path / '_written').exists()
    (tmp_path / '_written').mkdir()


def test_the_order_in_which_corpora_are_named_does_not_matter(corpora, tmp_path):
  index.index(corpora, str(tmp_path))
  given, sorted_ = (
    open_stream(dict(items), tmp_path, [VIDEO, IMAGE])
    for items in (corpora.items(), sorted(corpora.items()))
  )
  assert list(corpora) != sorted(corpora) and given.fingerprint == sorted_.fingerprint
  assert given.examples_at(0) == sorted_.examples_at(0)


def test_mistakes_are_named(corpora, tmp_path):
  for options, message in (
    (dict(where=['hight > 3']), 'hight.*Columns: .*height'),
    (dict(where=['height >']), '--where cannot be understood'),
    (
      dict(where=['height < 0']),
      r'no row is left: all: \d+, coalesce\(keep, true\): \d+ \(rejected: (\d+) by duration, \1 by '
      r'motion\), height < 0: 0. `curate` with other rules .*--where="keep or true" takes all but '
      r'what a denylist names. height lies in 96 to 96: change --where="height < 0".',
    ),
    (dict(axes=['beauty']), "no sidecar has the score 'beauty'"),
  ):
    with pytest.raises(ValueError, match=message):
      index.index(corpora, str(tmp_path), **options)
  with pytest.raises(ValueError, match='alpha=2 should be in'):
    table.Balance(alpha=2)
  with pytest.raises(ValueError, match='holds no index'):
    open_stream(corpora, tmp_path, [VIDEO])
  index.index({'videos': corpora['videos']}, str(tmp_path))
  with pytest.raises(ValueError, match='give the same, by the same names, or index again'):
    open_stream(corpora, tmp_path, [VIDEO])
  with pytest.raises(ValueError, match='the corpus has none'):
    open_stream({'videos': corpora['videos']}, tmp_path, [IMAGE])


@pytest.mark.parametrize(
  'condition',
  [
    'true; DROP VIEW sidecars',
    "true; COPY sidecars TO 'FOLDER/out.csv'",
    "ATTACH 'FOLDER/other.db'",
    'true) OR (true',
    'true UNION SELECT 1',
    'height, width',
    '',
    "(SELECT content FROM read_text('FOLDER/secret')) = 'x'",
    "EXISTS (FROM glob('FOLDER/*'))",
    "EXISTS (FROM 'FOLDER/secret.csv')",
    "EXISTS (FROM 'https://localhost:1/x.parquet')",
  ],
)
def test_a_condition_is_one_expression_and_reaches_no_file(corpora, tmp_path, condition):
  for name in ('secret', 'secret.csv'):
    (tmp_path / name).write_text('a\nx\n')
  before = sorted(tmp_path.iterdir())
  with pytest.raises(ValueError, match='--where cannot be understood'):
    index.index(corpora, str(tmp_path / 'index'), [condition.replace('FOLDER', str(tmp_path))])
  assert [path for path in sorted(tmp_path.iterdir()) if path.name != 'index'] == before


def test_a_condition_may_end_in_a_comment(corpora, tmp_path):
  manifest = index.index(corpora, str(tmp_path), ['height >= 64 -- all', 'keep'])
  assert manifest['funnel'][-1]['num_rows'] > 0


def test_index_says_what_each_aspect_takes_and_what_bounds_leave_out(corpora, tmp_path, capsys):
  """The demo's are 64x64: too small for the base stage's sizes, and square."""
  arguments = [f'--corpus={path}' for path in corpora.values()] + [f'--output={tmp_path}/index']
  told = lambda text: re.findall(r'(\w+)s by aspect .data.aspects.: (.*)', text)  # noqa: E731
  commands.main(['index', *arguments])
  kept, num_images = (
    sum(row.get('keep', True) for row in sidecar(corpora) if row['media'] == media)
    for media in ('video', 'image')
  )
  out = '448x256 0, 256x448 0, 384x320 {}, 320x384 0; left out by max_crop 0, max_enlarge {}'
  assert told(capsys.readouterr().out) == [
    ('video', out.format(0, kept)), ('image', out.format(0, num_images))
  ]  # fmt: skip
  stamp = (tmp_path / 'index/manifest.json').stat().st_mtime_ns
  commands.main(['index', *arguments, '--max_enlarge=6'])  # Counts alone: the index stays.
  assert told(capsys.readouterr().out)[1] == ('image', out.format(num_images, 0))
  flags = ['--aspects=64x64,128x32', '--max_crop=0.1']
  commands.main(['index', *arguments, *flags, '--dry_run'])
  assert told(capsys.readouterr().out)[1][1] == (
    f'64x64 {num_images}, 128x32 0; left out by max_crop 0, max_enlarge 0'
  )
  assert (tmp_path / 'index/manifest.json').stat().st_mtime_ns == stamp
  with corpora_lib.ends_with_2('should be WIDTHxHEIGHT'):
    commands.main(['index', *arguments, '--aspects=64'])


def test_a_batch_has_the_motion_of_its_rows_where_it_is_known(corpora, tmp_path, caplog):
  """By the index; of images, and without an index, it is unknown, of all of which one is told. No
  draw depends on it."""
  manifest = index.index(corpora, str(tmp_path / 'index'), quantiles=2)
  fields_of = (fields.Video(), fields.Motion())
  open_stream = lambda bucket, **options: stream_lib.TrainStream(  # noqa: E731
    corpora, [bucket], fields_of, seed=0, sandbox=False, **options
  )
  stream = open_stream(VIDEO, index=str(tmp_path / 'index'))
  measured = {row['key']: row.get('motion') for row in sidecar(corpora)}
  seen = []
  for step in range(12):
    keys = [drawn['key'] for drawn in stream.examples_at(step)]
    found = stream.batch_at(step)['motion']
    np.testing.assert_array_equal(found, np.array([measured[key] for key in keys], np.float32))
    seen += found.tolist()
  assert np.isnan(seen).any() and len({value for value in seen if value == value}) > 20
  assert 'How much moves is known of no example' not in caplog.text
  images = open_stream(IMAGE, index=str(tmp_path / 'index')).batch_at(0)['motion']
  assert images.dtype == np.float32 and np.isnan(images).all()
  assert np.isnan(open_stream(VIDEO).batch_at(0)['motion']).all()
  assert 'How much moves is known of no example' in caplog.text
  (tmp_path / 'older').mkdir()
  for path in (tmp_path / 'index').iterdir():
    if not path.name.startswith('motion'):
      shutil.copy(path, tmp_path / 'older')
  older = {name: value for name, value in manifest.items() if name != 'has_motion'}
  (tmp_path / 'older' / 'manifest.json').write_text(json.dumps(older))
  stream_of_older = open_stream(VIDEO, index=str(tmp_path / 'older'))
  assert stream_of_older.fingerprint == stream.fingerprint
  batch = stream_of_older.batch_at(0)
  np.testing.assert_array_equal(batch['video'], stream.batch_at(0)['video'])
  assert np.isnan(batch['motion']).all()
