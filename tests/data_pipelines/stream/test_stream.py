"""The training stream is a function of the step: hosts, threads and restarts do not change it."""

import collections
import json
import pathlib
import resource
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets, reader
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import decoder, fields, shuffle
from data_pipelines.stream import stream as stream_lib
from tests import media

VIDEO = buckets.Bucket('video', 8, 32, 32, fps=8, batch_size=4, weight=3.0)
IMAGE = buckets.Bucket('image', 1, 32, 32, fps=1, batch_size=8, weight=1.0, media='image')


def tokenize(captions):
  return np.array([[zlib.crc32(caption.encode()) % 1000, len(caption)] for caption in captions])


@pytest.fixture(scope='session')
def demo(tmp_path_factory):
  root = tmp_path_factory.mktemp('demo')
  demo_corpus.write(str(root), num_videos=30, num_validation=72, num_images=20)
  directories = {}
  for name, source in (('videos', 'webvid'), ('images', 'images')):
    directories[name] = str(root / 'corpora' / name)
    ingest.ingest(str(root / source), directories[name], num_processes=1)
  return root, directories


def open_stream(demo, **options):
  options = (
    dict(buckets=[VIDEO, IMAGE], fields=fields.released(tokenize, 16), seed=3, sandbox=False)
    | options
  )
  return stream_lib.TrainStream(demo[1], **options)


def assert_equal_batches(batch, expected):
  assert batch.keys() == expected.keys()
  for name, values in expected.items():
    np.testing.assert_array_equal(batch[name], values, err_msg=name)


@pytest.mark.parametrize('host_count', [2, 4])
def test_hosts_together_hold_the_global_batch(demo, host_count):
  whole = open_stream(demo)
  hosts = [open_stream(demo, host_index=h, host_count=host_count) for h in range(host_count)]
  for step in (0, 3, 4, 1000):
    expected = whole.batch_at(step)
    assert {host.bucket_at(step).name for host in hosts} == {whole.bucket_at(step).name}
    parts = [host.batch_at(step) for host in hosts]
    gathered = {name: np.concatenate([part[name] for part in parts]) for name in expected}
    order = np.argsort(gathered['position'])
    np.testing.assert_array_equal(gathered['position'][order], np.arange(len(order)))
    for h, part in enumerate(parts):
      np.testing.assert_array_equal(part['position'], np.arange(len(order))[h::host_count])
    assert_equal_batches({name: values[order] for name, values in gathered.items()}, expected)


@pytest.mark.parametrize('num_threads', [0, 1, 4])
def test_iteration_and_restart_equal_random_access(demo, num_threads):
  stream = open_stream(demo, num_threads=num_threads)
  for first_step in (0, 5):
    batches = stream.iterate(first_step)
    for step in range(first_step, 8):
      bucket, batch = next(batches)
      assert bucket == stream.bucket_at(step)
      assert_equal_batches(batch, stream.batch_at(step))
    batches.close()


def test_memory_of_a_billion_items_is_none_and_an_index_costs_microseconds():
  """What 6,000,000,000 images need: no table, and no index drawn twice."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  order = shuffle.epochs(6_000_000_000, seed=1)
  order[0]
  start = time.process_time()
  drawn = {int(order[i]) for i in range(5_999_980_000, 6_000_000_000)}
  per_index = (time.process_time() - start) / 20_000
  assert len(drawn) == 20_000 and 0 <= min(drawn) < 1e6 and 5.999e9 < max(drawn) < 6e9
  assert abs(np.mean(list(drawn)) / 3e9 - 1) < 0.02
  assert per_index < 1e-4  # 9 microseconds on an idle machine.
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50e3  # kB


def test_batches_have_the_shapes_of_their_bucket(demo):
  stream = open_stream(demo)
  for step in range(8):
    bucket, batch = stream.bucket_at(step), stream.batch_at(step)
    size = bucket.batch_size
    assert batch['video'].shape == (size, bucket.frames, 32, 32, 3)
    assert batch['clip_image'].shape == (size, 16, 16, 3)
    assert batch['video'].dtype == batch['clip_image'].dtype == np.uint8
    assert batch['token_ids'].shape == (size, 2)
    assert batch['token_ids'].dtype == batch['position'].dtype == np.int32
    np.testing.assert_array_equal(batch['fps'], np.float32(bucket.fps))


def test_steps_follow_the_weights_exactly(demo):
  stream = open_stream(demo)
  names = collections.Counter(stream.bucket_at(step).name for step in range(400))
  assert names == {'video': 300, 'image': 100}


def test_another_seed_gives_other_batches_and_another_fingerprint(demo):
  stream, other = open_stream(demo), open_stream(demo, seed=4)
  assert stream.fingerprint == open_stream(demo).fingerprint != other.fingerprint
  assert not np.array_equal(stream.batch_at(0)['video'], other.batch_at(0)['video'])
  assert stream.fingerprint != open_stream(demo, buckets=[VIDEO]).fingerprint


@pytest.mark.parametrize('length', [1, 7, 1000, 65_536, 65_537, 70_000, 262_145])
def test_every_epoch_has_every_row_once(length):
  order = shuffle.epochs(length, seed=1)
  first = [int(order[i]) for i in range(length)]
  second = [int(order[i]) for i in range(length, 2 * length)]
  assert sorted(first) == sorted(second) == list(range(length))
  assert length == 1 or first != second


def test_no_frame_is_black_or_empty(demo):
  stream = open_stream(demo, buckets=[VIDEO])
  for step in range(12):
    video = stream.batch_at(step)['video']
    assert video.reshape(*video.shape[:2], -1).max(axis=-1).min() > 10
    assert video.astype(int).std(axis=(2, 3, 4)).min() > 1


def test_short_and_slow_videos_go_to_the_buckets_that_they_fill_and_no_other(tmp_path):
  """VGen repeats or blackens what is missing."""
  folder = tmp_path / 'media'
  folder.mkdir()
  lengths = dict(long=(32, 16), short=(8, 16), slow=(12, 6))  # Frames, frames per second.
  for name, (frames, fps) in lengths.items():
    pixels = np.random.default_rng(0).integers(60, 200, (frames, 32, 32, 3), dtype=np.uint8)
    (folder / f'{name}.mp4').write_bytes(demo_corpus.encode_video(pixels, fps=fps))
    (folder / f'{name}.txt').write_text(name)
  ingest.ingest(str(folder), str(tmp_path / 'out'), validation_fraction=0.0, num_processes=1)
  size = dict(height=32, width=32, batch_size=6)
  wanted = {
    buckets.Bucket('8 at 8', 8, fps=8, **size): {'long'},
    buckets.Bucket('4 at 8', 4, fps=8, **size): {'long', 'short'},
    buckets.Bucket('4 at 4', 4, fps=4, **size): {'long', 'slow'},
    buckets.Bucket('2 at 5', 2, fps=5, **size): {'long', 'short', 'slow'},
  }
  captions = []

  def tokenize(found):
    captions[:] = found
    return np.zeros((len(found), 1))

  stream = stream_lib.TrainStream(
    str(tmp_path / 'out'), list(wanted), fields.released(tokenize, 16), 0, sandbox=False
  )
  for step in range(8):
    video = stream.batch_at(step)['video']
    assert set(captions) == wanted[stream.bucket_at(step)]
    assert video.reshape(*video.shape[:2], -1).mean(axis=-1).min() > 50
  assert stream.num_bad == 0


@pytest.mark.parametrize('bad', [0, 3, 8])
def test_a_record_that_cannot_be_read_leaves_the_rows_around_it_as_they_are(demo, bad):
  corpora = reader.Corpora(demo[1]['images'], 'train')
  asked = {row: decoder.Request(*corpora.locate(row), ()) for row in range(10)}
  decode = decoder.Decoder((fields.Video(),))
  whole, found = (decode.empty(IMAGE, len(asked)) for _ in range(2))
  done = dict(decode.fill(whole, asked))
  again = dict(decode.fill(found, asked | {bad: decoder.Request(asked[bad].shard, 10**6, ())}))
  assert list(again) == list(asked) and again[bad].error.startswith('record: ')
  for row in set(asked) - {bad}:
    assert again[row] == done[row] and done[row].key == corpora.key(row)
    np.testing.assert_array_equal(found['video'][row], whole['video'][row])


def test_training_windows_start_at_different_times(demo):
  corpora = reader.Corpora(demo[1]['videos'], 'train')
  slow = buckets.Bucket('slow', 4, 32, 32, fps=8, batch_size=30)
  stream = stream_lib.TrainStream(demo[1]['videos'], [slow], fields.released(tokenize, 16), seed=0)
  assert len(corpora) == 30
  epochs = [stream.batch_at(step)['video'][:, 0].astype(int) for step in range(2)]
  captions = [stream.batch_at(step)['token_ids'][:, 0] for step in range(2)]
  assert sorted(captions[0]) == sorted(captions[1])  # The same videos,
  sums = [sorted(epoch.sum(axis=(1, 2, 3))) for epoch in epochs]
  assert sums[0] != sums[1]  # other windows of them.


def test_held_out_batch_is_fixed_and_says_its_captions(demo):
  batch = stream_lib.held_out(
    demo[1]['videos'], VIDEO, fields.released(tokenize, 16), num_examples=64
  )
  again = stream_lib.held_out(
    demo[1]['videos'], VIDEO, fields.released(tokenize, 16), num_examples=64
  )
  np.testing.assert_array_equal(batch['video'], again['video'])
  assert batch['caption'] == again['caption'] and len(set(batch['key'])) == 64
  np.testing.assert_array_equal(batch['token_ids'], tokenize(batch['caption']))
  directions = collections.Counter(
    demo_corpus.parse_caption(caption)['direction'] for caption in batch['caption']
  )
  assert directions == dict.fromkeys(demo_corpus.DIRECTIONS, 16)


def test_held_out_of_a_smaller_split_has_all_of_it(demo):
  assert (
    len(
      stream_lib.held_out(demo[1]['videos'], VIDEO, fields.released(tokenize, 16), 1000)['caption']
    )
    == 72
  )


def test_tfds_reads_the_corpus(demo):
  data = tfds.builder_from_directory(demo[1]['videos']).as_data_source('validation')
  assert len(data) == 72
  assert data[0]['caption'].decode().startswith('a ')
  assert data[0]['data'][4:8] == b'ftyp'


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(height=60), 'height=60 should be a multiple of 8'),
    (dict(frames=0), 'frames=0 should be >= 1'),
    (dict(weight=0), 'weight=0 should be > 0'),
    (dict(media='audio'), "media='audio' should be one of"),
    (dict(media='image'), 'frames=8 should be >= 1, and 1 for images'),
    (dict(media='image', frames=1), 'fps=8 should be 1 for images'),
  ],
)
def test_impossible_buckets_say_what_to_change(change, message):
  arguments = dict(name='b', frames=8, height=64, width=64, fps=8, batch_size=4) | change
  with pytest.raises(ValueError, match=message):
    buckets.Bucket(**arguments)


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(frames=9), r'0 are long enough .*frames <= 8 at fps=8 would fit'),
    (dict(fps=30.0), r'0 have the fps.*fps <= 16 would fit'),
  ],
)
def test_a_bucket_that_no_video_fills_says_what_would_fit(demo, change, message):
  bucket = buckets.Bucket(
    **(dict(name='b', frames=8, height=64, width=64, fps=8, batch_size=4) | change)
  )
  with pytest.raises(ValueError, match=message):
    open_stream(demo, buckets=[bucket])


def test_stream_arguments_that_do_not_fit_are_named(demo):
  with pytest.raises(ValueError, match='batch_size=4 should divide over 3 hosts'):
    open_stream(demo, host_count=3)
  with pytest.raises(ValueError, match='no split .train.|holds no ingested corpus'):
    stream_lib.TrainStream(str(demo[0]), [VIDEO], fields.released(tokenize, 16), seed=0)
  with pytest.raises(ValueError, match='names should differ'):
    open_stream(demo, buckets=[VIDEO, VIDEO])


def test_videos_of_two_codecs_and_photographs_stream(media_folder, tmp_path):
  directories = {}
  for name in ('videos', 'images'):
    directories[name] = str(tmp_path / name)
    manifest = ingest.ingest(str(media_folder / name), directories[name], num_processes=1)
    assert manifest['num_rejected'] == 0
    assert sum(split['num_examples'] for split in manifest['splits'].values()) >= 4
  video = buckets.Bucket('video', 16, 64, 112, fps=8, batch_size=4)
  image = buckets.Bucket('image', 1, 64, 112, fps=1, batch_size=3, media='image')
  stream = stream_lib.TrainStream(
    directories, [video, image], fields.released(tokenize, 32), seed=0
  )
  for step in range(4):
    batch = stream.batch_at(step)
    assert batch['video'].reshape(*batch['video'].shape[:2], -1).std(axis=-1).min() > 5
  held = stream_lib.held_out(directories['videos'], video, fields.released(tokenize, 32), 4)
  assert [media.CLIPS[key].caption for key in held['key']] == held['caption']


def test_streaming_needs_neither_tensorflow_nor_beam_nor_duckdb(demo):
  code = (
    'import sys\n'
    'sys.modules |= dict.fromkeys(("tensorflow", "apache_beam", "duckdb"))\n'  # Not to be imported.
    'from data_pipelines.corpus import buckets\n'
    'from data_pipelines.stream import fields\n'
    'from data_pipelines.stream.stream import TrainStream\n'
    f'given = {demo[1]!r}, [buckets.{VIDEO!r}], [fields.Video()]\n'
    'print(TrainStream(*given, seed=0, sandbox=False).batch_at(0)["video"].shape)'
  )
  root = pathlib.Path(__file__).parents[3]
  done = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True)
  # Above it, tensorflow_datasets says that TensorFlow is not there.
  assert done.stdout.splitlines()[-1:] == ['(4, 8, 32, 32, 3)'], done.stderr


def test_manifest_counts_match_the_files(demo):
  manifest = json.loads((pathlib.Path(demo[1]['videos']) / 'manifest.json').read_text())
  assert {name: split['num_examples'] for name, split in manifest['splits'].items()} == {
    'train': 30,
    'validation': 72,
  }
