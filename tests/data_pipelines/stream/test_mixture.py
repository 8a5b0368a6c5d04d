"""Weights of buckets and corpora that change on the way: the step alone says what is drawn."""

import collections

import grain
import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.corpus import buckets, reader
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.stream import fields, mixture
from data_pipelines.stream import stream as stream_lib

SHORT = buckets.Bucket('short', 2, 32, 32, fps=8, batch_size=4)
LONG = buckets.Bucket('long', 8, 32, 32, fps=8, batch_size=4)
IMAGE = buckets.Bucket('image', 1, 32, 32, fps=1, batch_size=4, media='image')
PHASES = (
  dict(start=0, buckets=dict(image=1)),
  dict(start=5, buckets=dict(image=1, short=2)),
  dict(start=12, buckets=dict(short=1, long=3)),
)


@pytest.fixture(scope='module')
def directories(tmp_path_factory):
  root = tmp_path_factory.mktemp('mixture')
  demo_corpus.write(str(root / 'demo'), num_videos=20, num_validation=4, num_images=15)
  found = {}
  for name, source in (('videos', 'webvid'), ('more', 'webvid'), ('images', 'images')):
    found[name] = str(root / name)
    ingest.ingest(str(root / 'demo' / source), found[name], num_processes=1)
  return found


def open_stream(directories, **options):
  options = dict(buckets=[IMAGE, SHORT, LONG], phases=PHASES, sandbox=False) | options
  tokenize = lambda captions: np.zeros((len(captions), 1), np.int32)  # noqa: E731
  return stream_lib.TrainStream(
    directories, fields=fields.released(tokenize, 16), seed=1, **options
  )


@pytest.mark.parametrize('weights', [[1], [3, 1], [1, 1, 1], [0.5, 0.25, 0.05, 0.2]])
def test_one_phase_is_grains_mix(weights):
  numbered = [
    grain.MapDataset.range(10_000).map(lambda k, stream=stream: (stream, k))
    for stream in range(len(weights))
  ]
  expected = grain.MapDataset.mix(numbered, weights)
  mixed = mixture.Mixture([(0, weights)])
  assert [mixed[i] for i in range(2000)] == [expected[i] for i in range(2000)]


def test_streams_go_on_where_they_were_when_weights_change():
  mixed = mixture.Mixture([(0, [1, 0, 2]), (7, [0.3, 0.1, 0]), (7, [5, 1, 1]), (100, [0, 1, 1])])
  seen = [0, 0, 0]
  for step in range(300):
    assert mixed.counts(step) == seen
    stream, index = mixed[step]
    assert index == seen[stream]
    seen[stream] += 1
  assert mixed.counts(7)[1] == 0 and mixed.counts(300)[0] == mixed.counts(100)[0]
  far = 6_000_000_000_000
  assert sum(mixed.counts(far)) == far


def test_a_phase_begins_at_the_same_batch_on_any_hosts_and_after_a_restart(directories):
  whole = open_stream(directories)
  expected = {step: whole.batch_at(step) for step in (4, 5, 11, 12, 13)}
  names = [whole.bucket_at(step).name for step in range(20)]
  assert set(names[:5]) == {'image'} and collections.Counter(names[12:]) == dict(short=2, long=6)
  assert set(names[5:12]) == {'image', 'short'}
  for host_count in (2, 4):
    for host in range(host_count):
      part = open_stream(directories, host_index=host, host_count=host_count)
      for first_step in (4, 11):
        batches = part.iterate(first_step)
        for step in range(first_step, first_step + 2):
          bucket, batch = next(batches)
          assert bucket.name == names[step]
          for field, values in batch.items():
            np.testing.assert_array_equal(values, expected[step][field][host::host_count])
        batches.close()


def test_epochs_stay_exact_across_phases(directories):
  """Also of a bucket that rests for a while, and if the shares of the corpora change."""
  phases = (
    dict(start=3, buckets=dict(image=1)),
    dict(start=9, buckets=dict(image=1, short=1)),
    dict(start=20, sources=dict(videos=1, more=3, images=1)),
  )
  stream = open_stream(
    directories, buckets=[IMAGE, SHORT], phases=phases, sources=dict(videos=1, more=1, images=1)
  )
  drawn = collections.defaultdict(list)
  for step in range(160):
    for example in stream.examples_at(step):
      drawn[stream.bucket_at(step).name, example['cell']].append(example['key'])
  sizes = {
    ('image', 'image images'): len(reader.Corpora(directories['images'], 'train')),
    ('short', 'video videos'): 20,
    ('short', 'video more'): 20,
  }
  assert drawn.keys() == sizes.keys()
  for cell, keys in drawn.items():
    for epoch in range(len(keys) // sizes[cell]):
      part = keys[epoch * sizes[cell] : (epoch + 1) * sizes[cell]]
      assert len(set(part)) == sizes[cell]
    assert len(keys) >= 3 * sizes[cell]


@pytest.mark.parametrize('indexed', [False, True])
def test_corpora_are_drawn_by_their_weights(directories, tmp_path, indexed):
  options = dict(phases=(dict(start=100, sources=dict(more=1, images=1)),))
  if indexed:
    index.index(directories, str(tmp_path), keep_copies=True)
    options['index'] = str(tmp_path)
  stream = open_stream(
    directories, buckets=[SHORT, IMAGE], sources=dict(videos=3, more=1, images=5), **options
  )
  for steps, expected in (
    (range(100), dict(videos=0.75, more=0.25)),
    (range(100, 140), dict(more=1)),
  ):
    drawn = collections.Counter()
    for step in steps:
      for example in stream.examples_at(step):
        [name] = [n for n, path in directories.items() if example['shard'].startswith(f'{path}/')]
        assert (name == 'images') == (stream.bucket_at(step).media == 'image')
        drawn[name] += name != 'images'
    for name, share in expected.items():
      assert drawn[name] / drawn.total() == pytest.approx(share, abs=0.01)


def test_phases_change_the_fingerprint_and_no_phase_does_not(directories):
  plain = open_stream(directories, phases=())
  same = open_stream(directories, phases=(dict(start=0, buckets=dict(image=1, short=1, long=1)),))
  assert plain.fingerprint == same.fingerprint != open_stream(directories).fingerprint


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(phases=[dict(start=3, buckets=dict(shrt=1))]), r"phases\[0\].buckets names 'shrt'"),
    (dict(phases=[dict(start=3, sources=dict(laion=1))]), "names 'laion'; known: images, more"),
    (dict(phases=[dict(start=3), dict(start=3)]), r'phases\[1\]: start=3 should be a step after'),
    (dict(phases=[dict(step=3)]), r"fields \['step'\]; it needs start"),
    (dict(phases=[dict(start=0, buckets=dict(long=0))]), "weight 0 of 'long' should be > 0"),
    (dict(phases=[dict(start=0, buckets=dict(long=1))]), "'image' is drawn in no phase"),
    (dict(phases=(), sources=dict(videos=1)), "bucket 'image' from step 0 on: none of the sources"),
  ],
)  # fmt: skip
def test_mistakes_in_phases_are_named(directories, options, message):
  with pytest.raises(ValueError, match=message):
    open_stream(directories, **options)
