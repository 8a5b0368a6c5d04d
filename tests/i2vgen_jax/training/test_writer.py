"""What a run shows, in a bucket: every scalar is in metrics.jsonl and in TensorBoard's files."""

import struct

from tensorboardX.proto import event_pb2

from data_pipelines.corpus import json_lines, retries, storage
from i2vgen_jax.training import writer


def events(data):
  """The records of an event file: length, its checksum, an event, its checksum."""
  found = []
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return found


def test_scalars_reach_a_bucket_in_parts_and_in_order(gs_bucket, monkeypatch):
  monkeypatch.setattr(writer.EventFile, 'PART_BYTES', 100)
  for first in (0, 5):  # Two attempts.
    made = writer.Writer('gs://held/run', active=True)
    for step in range(first, first + 5):
      made.scalars(step, {'loss': step / 2, 'bucket': 'video'})
      made._events.flush()
    made.close()
  rows = json_lines.read('gs://held/run/metrics.jsonl')
  assert rows == [dict(step=i, loss=i / 2, bucket='video') for i in range(10)]
  files = sorted(gs_bucket.find('held/run/tensorboard'))
  assert len(files) > 2, files
  found = events(b''.join(map(gs_bucket.cat_file, files)))
  shown = {e.step: e.summary.value[0].simple_value for e in found if e.summary.value}
  assert shown == {i: i / 2 for i in range(10)}


def test_a_bucket_that_stays_away_delays_tensorboard_and_loses_nothing(
  gs_bucket, monkeypatch, caplog
):
  def away(path, data):
    raise retries.StorageError('503')

  file = writer.EventFile('gs://held/events')
  file.write(b'one')
  with monkeypatch.context() as patch:
    patch.setattr(storage, 'write_bytes', away)
    file.flush()
  assert 'TensorBoard is behind: 503' in caplog.text
  file.write(b'two')
  file.close()
  assert gs_bucket.cat_file('held/events.0000') == b'onetwo'
