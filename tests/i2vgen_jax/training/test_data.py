"""A run goes on with the data that it was trained on, or says what changed."""

import logging

import pytest
from absl import logging as absl_logging

from data_pipelines.corpus import buckets, json_lines, reader
from data_pipelines.stream import fields, stream
from i2vgen_jax.training import data as data_lib
from tests import tiny


def open_stream(corpus, **options):
  video = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)
  options = dict(seed=0, sandbox=False) | options
  return stream.TrainStream(str(corpus), [video], fields.released(len, 16), **options)


REFUSES = dict(accept_changed=False, exact_epochs=True)


def test_a_changed_corpus_is_refused_on_resume_unless_told(demo_corpus, tmp_path, caplog):
  videos = open_stream(demo_corpus / 'videos')
  position = data_lib.data_position(7, videos)
  data_lib.resume(position, open_stream(demo_corpus / 'videos'), tmp_path, REFUSES)
  both = {name: str(demo_corpus / name) for name in ('videos', 'images')}
  video = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)
  changed = stream.TrainStream(both, [video], fields.released(len, 16), seed=0, sandbox=False)
  with pytest.raises(ValueError, match=r'step 7 .*another --workdir, or .*accept_changed=True'):
    data_lib.resume(position, changed, tmp_path, REFUSES)
  absl_logging.use_absl_handler()
  with caplog.at_level(logging.WARNING, 'absl'):
    absl_logging.get_absl_logger().propagate = True
    anew = dict(accept_changed=True, exact_epochs=False)
    change = data_lib.resume(position, changed, tmp_path, anew, writes=False)
  assert 'Going on with what is there now' in caplog.text
  assert 'All epochs begin anew at step 7' in caplog.text
  assert change and change.step == 7 and not list(tmp_path.iterdir())


def test_the_count_of_examples_goes_on_where_the_checkpoint_was(demo_corpus, tmp_path):
  first = open_stream(demo_corpus / 'videos')
  batches = first.iterate()
  for _ in range(3):
    next(batches)
  position = data_lib.data_position(3, first)  # More is decoded ahead.
  batches.close()
  assert position['examples'] == dict(seen=12, bad=0)
  second = open_stream(demo_corpus / 'videos')
  data_lib.resume(position, second, tmp_path, REFUSES)
  second.batch_at(3)
  assert data_lib.data_position(4, second)['examples'] == dict(seen=16, bad=0)
  del position['examples']  # As of an earlier version.
  data_lib.resume(position, open_stream(demo_corpus / 'videos'), tmp_path, REFUSES)


def test_the_fingerprint_does_not_depend_on_how_the_stream_runs(demo_corpus):
  one = open_stream(demo_corpus / 'videos')
  other = open_stream(
    demo_corpus / 'videos', num_threads=5, sandbox=True, host_index=1, host_count=2
  )
  assert one.fingerprint == other.fingerprint
  assert one.fingerprint != open_stream(demo_corpus / 'videos', seed=1).fingerprint


def test_every_config_says_how_it_streams(demo_corpus):
  data = tiny.get_config(demo_corpus).data
  assert data.sandbox and not data.accept_changed and data.exact_epochs and data.index == ''


def test_a_resumed_run_replaces_what_the_run_before_replaced(demo_corpus, tmp_path, monkeypatch):
  """Though the decoder that hung does not hang again; it reads of all hosts' replacements."""
  options = dict(num_threads=1, max_bad_fraction=0.5)
  first = open_stream(demo_corpus / 'videos', **options)
  whole, bad = first.batch_at(1), first.examples_at(1)[2]['key']
  read = reader.Records.read

  def hung(self, shard, record):
    found = read(self, shard, record)
    if found['key'] == bad:
      raise reader.DecodeError('timeout', 'no result in 60 s.')
    return found

  with monkeypatch.context() as patch:
    patch.setattr(reader.Records, 'read', hung)
    shaken = first.batch_at(1)
  data_lib.Replacements(tmp_path, first).record(1)
  assert (shaken['video'] != whole['video']).any()
  [told] = json_lines.read(tmp_path / 'replaced/host-00000.jsonl')
  assert (told['step'], told['row'], told['key'], told['reason'][:7]) == (1, 2, bad, 'timeout')
  (tmp_path / 'replaced/host-00000.jsonl').rename(tmp_path / 'replaced/host-00007.jsonl')
  resumed = open_stream(demo_corpus / 'videos', **options)
  data_lib.Replacements(tmp_path, resumed)
  assert (resumed.batch_at(1)['video'] == shaken['video']).all()
