"""Windows deep in a clip equal a whole decode, and holes in a clip are not trained on."""

import io

import av
import numpy as np
import pyarrow.parquet
import pytest

from data_pipelines.corpus import buckets, reader, sidecars
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.ingest import command as ingest
from data_pipelines.media import decode, random_access
from data_pipelines.stream import fields as fields_lib
from data_pipelines.stream import stream as stream_lib
from tests.data_pipelines.corpus import test_rows
from tests.media_kinds import clips, shown


def long_clip(codec='libx264', container='mp4', options=None, count=96):
  """Frames that differ all over, so that one that is not wholly decoded shows."""
  pictures = [np.roll(clips.picture(n % 32), 7 * n, axis=1) for n in range(count)]
  return clips.encode(codec, container, options=options, pictures=pictures, rate=24)


SEEKS = {
  'intra_refresh.mp4': dict(options={'crf': '14', 'x264-params': 'intra-refresh=1:keyint=24'}),
  'intra_refresh.mkv': dict(
    container='matroska', options={'crf': '14', 'x264-params': 'intra-refresh=1:keyint=24'}
  ),
  'intra_refresh.ts': dict(
    container='mpegts', options={'crf': '14', 'x264-params': 'intra-refresh=1:keyint=24'}
  ),
  'open_gop.mp4': dict(options={'x264-params': 'open-gop=1:bframes=3:keyint=24'}),
  'open_gop.ts': dict(container='mpegts', options={'x264-params': 'open-gop=1:keyint=24'}),
  'hevc_open_gop.mp4': dict(
    codec='libx265',
    options=clips.X265 | {'x265-params': clips.X265['x265-params'] + ':open-gop=1:keyint=24'},
  ),
  'vp9.webm': dict(codec='libvpx-vp9', container='webm', options=dict(clips.VP9, g='20')),
  'av1.mkv': dict(codec='libsvtav1', container='matroska', options=dict(clips.AV1, g='40')),
  'mpeg2.ts': dict(codec='mpeg2video', container='mpegts', options=dict(clips.FINE, g='15')),
  'mpeg4.avi': dict(codec='mpeg4', container='avi', options=dict(clips.FINE, g='24')),
}  # fmt: skip


@pytest.mark.parametrize('name', SEEKS)
def test_windows_after_a_seek_equal_a_whole_decode(name):
  check_windows(long_clip(**SEEKS[name]))


def check_windows(data):
  _, frames, times = shown.whole(data)
  for start in range(24, 90, 9):
    part, _ = decode.decode_video(data, times[start : start + 6], *frames.shape[1:3])
    np.testing.assert_array_equal(part, frames[start : start + 6])


@pytest.mark.parametrize('codec, options', [
  ('libx264', {'g': '40'}), ('libx265', clips.X265 | {'g': '40'}),
  ('mpeg4', dict(clips.FINE, g='40')), ('libvpx-vp9', dict(clips.VP9, g='40')),
  ('libsvtav1', dict(clips.AV1, g='40')),
])  # fmt: skip
def test_an_mp4_that_calls_all_frames_key_frames_is_not_believed(codec, options):
  data = long_clip(codec, options=options)
  assert b'stss' in data
  check_windows(data.replace(b'stss', b'skip'))


@pytest.mark.parametrize('name', SEEKS)
def test_decoding_starts_at_some_packets_only(name):
  with av.open(io.BytesIO(long_clip(**SEEKS[name]))) as container:
    stream = container.streams.video[0]
    starts = [
      random_access.can_start(packet, stream.codec_context)
      for packet in container.demux(stream)
      if packet.size
    ]
  assert starts[0] and len(starts) == 96
  assert sum(starts) == 1 if 'refresh' in name else 3 <= sum(starts) <= 7


def curated(folder):
  paths = (folder / 'sidecar' / 'curate').glob('*.parquet')
  return [row for path in paths for row in pyarrow.parquet.read_table(path).to_pylist()]


def test_a_hole_keeps_a_clip_out_of_the_buckets_whose_rate_it_breaks(tmp_path):
  """And clips of an older corpus, whose sidecars do not know, stay where they were."""
  folder = tmp_path / 'in'
  folder.mkdir()
  steady = [40 * k for k in range(60)]
  times = dict(
    steady=steady, late=[0, *(t + 300 for t in steady)], jitter=[t + t % 80 // 8 for t in steady]
  )
  for name, pts in times.items():
    data = clips.encode(pictures=[clips.picture(k % 32) for k in range(len(pts))], pts=pts, rate=25)
    (folder / f'{name}.mp4').write_bytes(data)
    (folder / f'{name}.txt').write_text(name)
  ingest.ingest(folder, tmp_path / 'out', validation_fraction=0.0, num_processes=1)

  def filled(fps):
    bucket = buckets.Bucket('b', 4, 32, 48, fps=fps, batch_size=1)
    stream = stream_lib.TrainStream(str(tmp_path / 'out'), [bucket], [fields_lib.Video()], seed=0)
    keys = {stream.examples_at(step)[0]['key'] for step in range(12)}
    stream.close()
    return keys

  def rates(is_new=True):
    corpora = reader.Corpora(tmp_path / 'out', 'train')
    indexed = sidecars.Sidecars(corpora).select([], [])['fps']
    if is_new:
      np.testing.assert_allclose(indexed, corpora.columns['fps'])
    return sorted(np.round(indexed).tolist())

  assert filled(16) == {'steady.mp4', 'jitter.mp4'} and rates() == [5, 25, 25]
  assert filled(4) == {'steady.mp4', 'jitter.mp4', 'late.mp4'}
  curate.curate(str(tmp_path / 'out'), decide.Rules(min_short_side=16), num_processes=1)
  assert rates(False) == [23, 25, 25]  # The longest shot without a hole has its frames.
  [row] = [row for row in curated(tmp_path / 'out') if row['key'] == 'late.mp4']
  assert row['span_start'] == pytest.approx(0.3) and row['span_gap'] == pytest.approx(0.04)
  assert 'hole' in row['flags'] and row['num_shots'] == 1
  for path in (tmp_path / 'out' / 'sidecar').rglob('*.parquet'):
    table = pyarrow.parquet.read_table(path)
    new = {'longest_gap', 'hdr', 'is_interlaced', 'span_gap'} & set(table.column_names)
    table = table.drop_columns(sorted(new))
    pyarrow.parquet.write_table(table, path)
  test_rows.strip(tmp_path / 'out')
  assert rates() == [23, 25, 25]
  assert filled(16) == {'steady.mp4', 'jitter.mp4', 'late.mp4'}
