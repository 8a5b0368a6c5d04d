"""What a run shows: scalars in metrics.jsonl and in groups on boards, also in a bucket."""

import importlib.util
import io
import json
import struct

import numpy as np
import PIL.Image
import pytest
import wandb
from tensorboardX.proto import event_pb2

from configs import demo
from data_pipelines.corpus import json_lines, retries, storage
from i2vgen_jax.sampling import sheets
from i2vgen_jax.training import tensorboard, wandb_run, warm_start, writer

VIDEO = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3), np.uint8)


def events(data):
  """The records of an event file: length, its checksum, an event, its checksum."""
  found = []
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  return found


def shown(folder):
  """Tag -> its newest value in the event files of a workdir on this disk."""
  data = b''.join(path.read_bytes() for path in sorted((folder / 'tensorboard').iterdir()))
  return {value.tag: value for event in events(data) for value in event.summary.value}


def test_scalars_reach_a_bucket_in_parts_and_in_order(gs_bucket, monkeypatch):
  monkeypatch.setattr(tensorboard.EventFile, 'PART_BYTES', 100)
  for first in (0, 5):  # Two attempts.
    board = tensorboard.TensorBoard('gs://held/run')
    made = writer.Writer('gs://held/run', boards=[board])
    for step in range(first, first + 5):
      made.scalars(step, {'loss': step / 2, 'bucket': 'video'})
      board._events.flush()
    made.close()
  rows = json_lines.read('gs://held/run/metrics.jsonl')
  assert rows == [dict(step=i, loss=i / 2, bucket='video') for i in range(10)]
  files = sorted(gs_bucket.find('held/run/tensorboard'))
  assert len(files) > 2, files
  found = events(b''.join(map(gs_bucket.cat_file, files)))
  found = {e.step: e.summary.value[0].simple_value for e in found if e.summary.value}
  assert found == {i: i / 2 for i in range(10)}


def test_a_bucket_that_stays_away_delays_tensorboard_and_loses_nothing(
  gs_bucket, monkeypatch, caplog
):
  def away(path, data):
    raise retries.StorageError('503')

  file = tensorboard.EventFile('gs://held/events')
  file.write(b'one')
  with monkeypatch.context() as patch:
    patch.setattr(storage, 'write_bytes', away)
    file.flush()
  assert 'TensorBoard is behind: 503' in caplog.text
  file.write(b'two')
  file.close()
  assert gs_bucket.cat_file('held/events.0000') == b'onetwo'


def test_curves_are_grouped_and_lines_stay_flat(tmp_path):
  config = demo.get_config()
  made = writer.Writer(tmp_path, boards=writer.boards_of(config, tmp_path))
  figures = {
    'loss': 'loss/all', 'loss/videos': 'loss/videos', 'eval_loss': 'eval/loss',
    'grad_norm': 'optimizer/grad_norm', 'grad_norm/mid': 'grad_norm/mid', 'mfu': 'speed/mfu',
    'input_wait_secs': 'data/input_wait_secs', 'num_bad_samples': 'data/num_bad_samples',
    'device_memory_peak_gib': 'memory/device_memory_peak_gib',
  }  # fmt: skip
  made.scalars(7, {name: number for number, name in enumerate(figures)} | {'bucket': 'videos'})
  made.scalars(8, {'skipped_reason': 'NaN'})
  made.text(7, 'run/config', 'a | b\n  c')
  made.close()
  first, second = json_lines.read(tmp_path / 'metrics.jsonl')
  assert set(first) == {'step', 'bucket', *figures} and second['skipped_reason'] == 'NaN'
  found = shown(tmp_path)
  texts = {tag: found.pop(tag).tensor.string_val[0].decode() for tag in [*found] if 'run/' in tag}
  assert {tag: value.simple_value for tag, value in found.items()} == {
    tag: number for number, tag in enumerate(figures.values())
  }
  assert list(texts.values()) == ['    a | b\n      c']  # Markdown shows it as it is written.


def test_a_sampled_video_is_shown_beside_the_real_one_with_its_caption(tmp_path):
  made = writer.Writer(tmp_path, boards=[tensorboard.TensorBoard(tmp_path)])
  real, sampled = VIDEO, 255 - VIDEO
  both = sheets.side_by_side(dict(real=real, sampled=sampled), 'a red circle moves left')
  large = [video.repeat(4, 1).repeat(4, 2) for video in (real, sampled)]  # 48 pixels to 192.
  _, height, width, _ = large[0].shape
  for i, video in enumerate(large):
    left = sheets.GAP + i * (width + sheets.GAP)
    part = both[:, -height - sheets.GAP : -sheets.GAP, left : left + width]
    np.testing.assert_array_equal(part, video)
  assert (both[:, :-height] == sheets.TEXT).all(-1).any()
  made.video(7, 'samples/00', both, 8)
  made.close()
  gif = PIL.Image.open(io.BytesIO(shown(tmp_path)['samples/00'].image.encoded_image_string))
  assert gif.n_frames == 3 and gif.size == both.shape[2:0:-1]


def test_a_project_without_the_client_is_named_before_anything_starts(tmp_path, monkeypatch):
  config = demo.get_config()
  config.train.wandb = 'videos'
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match="train.wandb='videos' needs .*pip install"):
    warm_start.opened(config, tmp_path)


def test_weights_and_biases_gets_what_tensorboard_gets(tmp_path, monkeypatch):
  monkeypatch.setenv('WANDB_MODE', 'offline')
  config = demo.get_config()
  config.train.update(wandb='videos', tensorboard=False)
  logged = []
  ids = set()
  for first in (1, 3):  # A run and its resumption.
    boards = writer.boards_of(config, tmp_path)
    run = boards[0]._run
    log = run.log
    monkeypatch.setattr(run, 'log', lambda row, log=log: (logged.append(row), log(row)))
    made = writer.Writer(tmp_path, boards=boards)
    made.scalars(first, {'loss': 0.5, 'bucket': 'videos'})
    made.video(first, 'samples/00', VIDEO, 8)
    made.image(first, 'samples/contact_sheet', VIDEO[0])
    made.text(first, 'run/config', 'text')
    ids.add(run.id)
    assert run.config['train']['wandb'] == 'videos' and run.project == 'videos'
    made.close()
  assert logged[0] == {'step': 1, 'loss/all': 0.5} and logged[3] == {'step': 3, 'loss/all': 0.5}
  assert isinstance(logged[1]['samples/00'], wandb.Video)
  assert ids == {(tmp_path / wandb_run.ID).read_text()}
  assert len(list(tmp_path.glob('wandb/offline-run-*/*.wandb'))) == 2
  assert len(list(tmp_path.glob('wandb/**/*.gif'))) == 2
  assert json.loads(json.dumps(logged[0])) == logged[0]  # Plain numbers.


def test_a_service_that_does_not_let_us_in_is_one_line(tmp_path, monkeypatch):

  def refused(**options):
    raise wandb.errors.UsageError('No API key configured.')

  monkeypatch.setattr(wandb, 'init', refused)
  config = demo.get_config()
  config.train.update(wandb='videos', tensorboard=False)
  with pytest.raises(ValueError, match='No API key configured. WANDB_MODE=offline'):
    writer.boards_of(config, tmp_path)
