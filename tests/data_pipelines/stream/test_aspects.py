"""Buckets by aspect: an example goes where it is cropped least, and with none nothing changes."""

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from data_pipelines import demo_corpus
from data_pipelines.corpus import aspects, buckets, schema
from data_pipelines.index import command as index
from data_pipelines.index import table
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib
from tests import corpora

# Without aspects: fingerprint of the stream, and a digest of what its first 60 steps draw, as they
# were before there were aspects; by what else is asked for.
BEFORE = dict(
  plain=('f45d467bfb60af06', '5474d04a99b1772a'),
  index=('f5257f29bc67c4fe', 'bcd83fcd997f77f2'),
  phases=('1e0fa345adf9779b', '1b55ffb18bfa0109'),
)


def open_stream(directories, bucket_list, seed=5, **options):
  tokens = lambda captions: np.zeros((len(captions), 1), np.int32)  # noqa: E731
  options = dict(sandbox=False) | options
  return stream_lib.TrainStream(
    directories, bucket_list, fields.released(tokens, 16), seed, **options
  )


def pin(directory, fingerprint):
  """Gives a corpus another fingerprint: that of its bytes changes with the encoder's version."""
  path = pathlib.Path(directory) / 'manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(fingerprint=fingerprint)))


@pytest.fixture(scope='module')
def pinned(tmp_path_factory):
  """(directories, folder of an index of them), whose fingerprints no encoder changes."""
  root = tmp_path_factory.mktemp('pinned')
  video, image = ('video', 32, 32), ('image', 32, 48)
  directories = {
    'a': corpora.ingest_sizes(root / 'a', [video] * 9 + [image] * 4),
    'b': corpora.ingest_sizes(root / 'b', [video] * 5 + [image] * 3),
  }
  for name, directory in directories.items():
    pin(directory, name * 16)
    for path in pathlib.Path(directory).glob('sidecar/*.parquet'):
      known = parquet.read_table(path)
      count = known.num_rows
      rows = dict(
        key=known['key'],
        keep=np.arange(count) % 5 > 0,
        motion=(np.arange(count) * 7 % 11).astype(np.float32),
        span_start=known['first_time'].to_numpy() + 0.0,
        span_end=known['first_time'].to_numpy() + known['duration'].to_numpy(),
      )
      (path.parent / 'curate').mkdir(exist_ok=True)
      parquet.write_table(pa.table(rows), path.parent / 'curate' / path.name)
    corpora.finish_stage(directory)
  balance = table.Balance(alpha=0.5)
  index.index(directories, str(root / 'index'), quantiles=2, balance=balance, keep_copies=True)
  return directories, str(root / 'index')


OPTIONS = {
  'plain': dict(),
  'index': dict(index=True),
  'phases': dict(
    phases=[dict(start=7, buckets=dict(f4=1, images=2), sources=dict(a=3, b=1))], index=True
  ),
}


@pytest.mark.parametrize('name', OPTIONS)
def test_without_aspects_the_stream_is_as_it_was_before(pinned, name):
  directories, folder = pinned
  size = dict(height=32, width=32)
  config = dict(
    images=dict(media='image', frames=1, fps=1.0, batch_size=4, weight=1.0, **size),
    f4=dict(media='video', frames=4, fps=8.0, batch_size=4, weight=2.0, **size),
    f2=dict(media='video', frames=2, fps=4.0, batch_size=2, weight=0.5, **size),
  )
  found = buckets.from_config(dict(data=dict(buckets=config)))
  options = dict(OPTIONS[name])
  if options.pop('index', False):
    options['index'] = folder
  stream = open_stream(directories, found, **options)
  drawn = []
  for step in range(60):
    for example in stream.examples_at(step):
      # As shards were called then.
      example['shard'] = '/'.join(pathlib.Path(example['shard']).parts[-3:]) + '-of-00001'
      example['times'] = [round(time, 5) for time in example['times']]
      drawn.append([stream.bucket_at(step).name, example])
  digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]
  assert (stream.fingerprint, digest) == BEFORE[name]


LANDSCAPE, PORTRAIT, SQUARE = (64, 128), (128, 64), (96, 96)
SIZES = (LANDSCAPE, PORTRAIT, SQUARE)
# What each source of the corpus below is cropped least by, as configs would name it.
SOURCES = {
  (64, 128): '128x64', (128, 64): '64x128', (96, 96): '96x96', (72, 128): '128x64',
  (128, 72): '64x128', (96, 104): '96x96', (48, 96): '128x64', (16, 32): 'max_enlarge',
  (32, 192): 'max_crop',
}  # fmt: skip


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
  """A corpus of videos and images, three of each size of SOURCES and four more of the first."""
  sizes = [(media, *size) for media in ('video', 'image') for size in SOURCES for _ in range(3)]
  sizes += [(media, *LANDSCAPE) for media in ('video', 'image') for _ in range(4)]
  return corpora.ingest_sizes(tmp_path_factory.mktemp('mixed'), sizes)


def of_aspects(sizes=SIZES, batch_size=4, **bounds):
  video = buckets.Bucket('v', 4, 64, 128, fps=8, batch_size=batch_size, weight=3.0)
  image = buckets.Bucket('i', 1, 64, 128, 1, batch_size, 1.0, media='image')
  bounds = dict(max_crop=0.6, max_enlarge=2.0) | bounds
  return [one for b in (video, image) for one in buckets.with_aspects(b, sizes, **bounds)]


def size_in(key):
  return tuple(map(int, key.removesuffix('.png').removesuffix('.mp4').split('_')[1].split('x')))


def test_an_example_is_drawn_at_the_one_aspect_that_crops_it_least(mixed):
  stream = open_stream(mixed, of_aspects())
  seen = set()
  for step in range(120):
    bucket = stream.bucket_at(step)
    for example in stream.examples_at(step):
      assert f'{bucket.group}_{SOURCES[size_in(example["key"])]}' == bucket.name
      seen.add((bucket.media, example['key']))
  wanted = [s for s, name in SOURCES.items() if not name.startswith('max')]
  assert len(seen) == 2 * (3 * len(wanted) + 4)
  for step in range(4):
    bucket, video = stream.bucket_at(step), stream.batch_at(step)['video']
    assert video.shape == (4, bucket.frames, *bucket.size, 3)


def test_a_group_has_exact_epochs_and_the_weight_that_it_had(mixed):
  stream = open_stream(mixed, of_aspects())
  steps = range(16 * 22)  # A step has 4 examples, and 3 of 4 steps are videos: 16 epochs of these.
  counts = dict(v={}, i={})
  for step in steps:
    of_group = counts[stream.bucket_at(step).group]
    for example in stream.examples_at(step):
      of_group[example['key']] = of_group.get(example['key'], 0) + 1
  drawn = {name: sum(found.values()) for name, found in counts.items()}
  assert drawn == {'v': 3 * len(steps), 'i': len(steps)}
  for name, found in counts.items():
    assert len(found) == 25
    mean = drawn[name] / 25
    # A step takes a whole batch of one aspect: those are ahead or behind by one batch at most.
    assert max(abs(count - mean) for count in found.values()) <= 1 + 4 / 6


def test_groups_keep_their_steps_and_hosts_and_restarts_see_the_same(mixed):
  stream = open_stream(mixed, of_aspects())
  whole = [
    buckets.Bucket('v', 4, 64, 128, 8, 4, 3.0),
    buckets.Bucket('i', 1, 64, 128, 1, 4, 1.0, media='image'),
  ]
  plain = open_stream(mixed, whole)
  assert [stream.bucket_at(step).group for step in range(99)] == [
    plain.bucket_at(step).name for step in range(99)
  ]
  assert stream.fingerprint != plain.fingerprint
  hosts = [open_stream(mixed, of_aspects(), host_index=h, host_count=2) for h in (0, 1)]
  for step in (0, 1, 2, 77):
    batch = stream.batch_at(step)
    for h, host in enumerate(hosts):
      assert host.bucket_at(step) == stream.bucket_at(step)
      np.testing.assert_array_equal(host.batch_at(step)['video'], batch['video'][h::2])
  batches = stream.iterate(70)
  for step in range(70, 78):
    bucket, batch = next(batches)
    assert bucket == stream.bucket_at(step)
    np.testing.assert_array_equal(batch['video'], stream.batch_at(step)['video'])
  batches.close()


def test_two_hosts_run_the_same_programs_and_together_draw_every_example_once_an_epoch(mixed):
  number = lambda captions: np.array([[int(caption[:3])] for caption in captions])  # noqa: E731
  given = [fields.Video(), fields.TokenIds(number)]
  hosts = [
    stream_lib.TrainStream(
      mixed, of_aspects(), given, 5, host_index=host, host_count=2, sandbox=False
    )
    for host in (0, 1)
  ]
  drawn: dict[str, list[int]] = {'v_64x128': [], 'v_96x96': [], 'i_128x64': []}
  steps = itertools.count()
  while any(len(found) < 12 for found in drawn.values()):
    step = next(steps)
    ran = {host.bucket_at(step) for host in hosts}
    assert len(ran) == 1
    [bucket] = ran
    if len(drawn.get(bucket.name, 12 * [0])) >= 12:
      continue
    for host in hosts:
      batch = host.batch_at(step)
      assert batch['video'].shape == (2, bucket.frames, *bucket.size, 3)
      drawn[bucket.name] += batch['token_ids'][:, 0].tolist()
  assert sorted(collections.Counter(drawn['v_64x128']).values()) == [2] * 6  # Of 6, two epochs.
  assert sorted(collections.Counter(drawn['v_96x96']).values()) == [2] * 6
  assert len(set(drawn['i_128x64'])) == 12  # Of 13.


def test_phases_name_groups_and_an_aspect_rests_where_no_source_has_it(tmp_path):
  video = 'video'
  directories = {
    'wide': corpora.ingest_sizes(tmp_path / 'a', [(video, *LANDSCAPE)] * 6),
    'both': corpora.ingest_sizes(
      tmp_path / 'b', [(video, *LANDSCAPE)] * 2 + [(video, *PORTRAIT)] * 4
    ),
  }
  phases = [dict(start=10, sources=dict(wide=1)), dict(start=20, sources=dict(wide=1, both=1))]
  bucket_list = [b for b in of_aspects(batch_size=2) if b.media == video]
  stream = open_stream(directories, bucket_list, sources=dict(both=1), phases=phases)
  assert [b.name for b in stream.buckets] == ['v_128x64', 'v_64x128']  # None is square.
  names = [[stream.bucket_at(step).name for step in range(i, i + 6000)] for i in (0, 20)]
  assert names[0][:10].count('v_64x128') in (6, 7)
  assert set(names[0][10:20]) == {'v_128x64'}
  assert names[1].count('v_64x128') == 2000  # 2 of 3 of what comes of `both`.
  drawn = [e['shard'] for step in range(20, 620) for e in stream.examples_at(step)]
  assert sum(f'{tmp_path}/b' in shard for shard in drawn) == pytest.approx(600, abs=3)


def test_bounds_leave_out_and_are_counted(mixed):
  def counted(**bounds):
    stream = open_stream(mixed, of_aspects(**bounds))
    return stream.counts_by_aspect(stream.buckets[0])

  found = counted()
  wanted = dict.fromkeys((*map(aspects.name_of, SIZES), 'max_crop', 'max_enlarge'), 0)
  for size, name in SOURCES.items():
    wanted[name] += 3 + 4 * (size == LANDSCAPE)
  assert found == wanted and list(found) == list(wanted)
  none = counted(max_crop=1.0, max_enlarge=100.0)
  assert none['max_crop'] == none['max_enlarge'] == 0 and sum(none.values()) == 31
  with pytest.raises(
    ValueError, match=r"'v' fits no video by its size.*max_crop 28, max_enlarge 3"
  ):
    open_stream(mixed, of_aspects(sizes=((64, 64),), max_crop=0.001, max_enlarge=0.5))


def test_bounds_without_aspects_keep_the_bucket(mixed):
  bucket = buckets.Bucket('v', 4, 64, 128, 8, 4)
  assert buckets.with_aspects(bucket, ()) == [bucket]
  [bounded] = buckets.with_aspects(bucket, (), max_crop=0.2)
  assert bounded == dataclasses.replace(bucket, framing=bounded.framing)
  stream = open_stream(mixed, [bounded])
  seen = {size_in(e['key']) for step in range(30) for e in stream.examples_at(step)}
  assert seen == {(64, 128), (72, 128), (48, 96), (16, 32)}


def write_boxes(directory, boxes):
  """(top, left, height, width) of the content by the key's number, as `curate` writes it."""
  for path in pathlib.Path(directory).glob('sidecar/*.parquet'):
    keys = parquet.read_table(path)['key'].to_pylist()
    rows = [
      dict(key=key, **dict(zip(schema.CONTENT, boxes.get(key[:3], (None,) * 4), strict=True)))
      for key in keys
    ]
    (path.parent / 'curate').mkdir(exist_ok=True)
    table_of = pa.Table.from_pylist(
      rows, pa.schema([schema.CURATE.field(name) for name in rows[0]])
    )
    parquet.write_table(table_of, path.parent / 'curate' / path.name)
  corpora.finish_stage(directory)


def test_a_letterboxed_video_is_cropped_to_its_content_which_its_aspect_is_judged_by(tmp_path):
  (tmp_path / 'media').mkdir()
  rng = np.random.default_rng(0)
  for name, (rows, columns) in {'000': ((24, 72), (0, 96)), '001': ((0, 96), (24, 72))}.items():
    pixels = np.zeros((6, 96, 96, 3), np.uint8)
    inner = rng.integers(90, 200, (6, 12, 12, 3), np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    pixels[:, slice(*rows), slice(*columns)] = inner[:, slice(*rows), slice(*columns)]
    (tmp_path / 'media' / f'{name}_96x96.mp4').write_bytes(demo_corpus.encode_video(pixels, fps=8))
    (tmp_path / 'media' / f'{name}_96x96.txt').write_text(name)
  directory = str(tmp_path / 'corpus')
  ingest.ingest(str(tmp_path / 'media'), directory, validation_fraction=0.0, num_processes=1)
  write_boxes(directory, {'000': (0.27, 0, 0.46, 1), '001': (0, 0.27, 1, 0.46)})
  manifest = index.index(dict(c=directory), str(tmp_path / 'index'))
  bucket = buckets.Bucket('v', 4, 64, 64, fps=8, batch_size=2)
  sizes = ((64, 64), LANDSCAPE, PORTRAIT)
  stream = open_stream(
    dict(c=directory), buckets.with_aspects(bucket, sizes), index=str(tmp_path / 'index')
  )
  assert [b.name for b in stream.buckets] == ['v_128x64', 'v_64x128']
  for step in range(4):
    batch = stream.batch_at(step)
    assert batch['video'].min() > 50 and batch['clip_image'].min() > 50  # Nothing black.
    [drawn, _] = stream.examples_at(step)
    assert drawn['key'][:3] == {'v_128x64': '000', 'v_64x128': '001'}[stream.bucket_at(step).name]
  write_boxes(directory, {})
  whole = index.index(dict(c=directory), str(tmp_path / 'whole'))
  assert manifest['is_cropped'] and 'is_cropped' not in whole
  assert whole['fingerprint'] != manifest['fingerprint']
  assert (
    open_stream(dict(c=directory), [bucket], index=str(tmp_path / 'whole'))
    .batch_at(0)['video']
    .min()
    < 20
  )


def test_held_out_clips_are_those_of_the_aspect_that_is_shown(mixed):
  [landscape, _, _, *_] = of_aspects()
  given = fields.Video(), fields.Fps()
  batch = stream_lib.held_out(mixed, landscape, given, 99, split='train', sandbox=False)
  assert len(batch['key']) == 13 and batch['video'].shape[2:4] == LANDSCAPE
  assert {SOURCES[size_in(key)] for key in batch['key']} == {'128x64'}
  [none] = buckets.with_aspects(landscape, ((64, 64),), max_crop=0.001, max_enlarge=0.5)
  with pytest.raises(ValueError, match="split 'train'.*left out by max_crop 28.*sample.bucket"):
    stream_lib.held_out(mixed, none, given, 1, split='train')
