"""Cover art, several streams, frames whose size changes: the film is taken and never stretched."""

import fractions
import io
import subprocess

import av
import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest

from data_pipelines.corpus import reader
from data_pipelines.curate import measure
from data_pipelines.ingest import command as ingest
from data_pipelines.media import containers, crops, decode, errors, probe
from data_pipelines.media import frames as frames_lib
from tests.media_kinds import clips, shown, test_hdr, test_interlaced


def with_cover(container, cover_codec='png', cover_first=True, marked=True, count=6):
  """A video and a larger red picture."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', container) as output:
    streams = {}
    for kind in ('cover', 'video') if cover_first else ('video', 'cover'):
      codec = cover_codec if kind == 'cover' else 'libx264'
      stream = output.add_stream(codec, rate=12, options=clips.H264 if kind == 'video' else {})
      stream.height, stream.width = (300, 300) if kind == 'cover' else (clips.HEIGHT, clips.WIDTH)
      stream.pix_fmt = (
        'yuv420p' if kind == 'video' else {'png': 'rgb24', 'mjpeg': 'yuvj420p'}[codec]
      )
      streams[kind] = stream
    if marked:
      streams['cover'].disposition = 1024  # Attached picture.
    red = np.full((300, 300, 3), (255, 0, 0), np.uint8)
    for kind, pictures in (('cover', [red]), ('video', map(clips.picture, range(count)))):
      for index, pixels in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
        frame.pts = index
        output.mux(streams[kind].encode(frame))
      output.mux(streams[kind].encode())
  return buffer.getvalue()


@pytest.mark.parametrize('container, codec, cover_first, marked', [
  ('mp4', 'png', False, True), ('mp4', 'mjpeg', False, True), ('mp4', 'mjpeg', True, False),
  ('matroska', 'mjpeg', True, True), ('matroska', 'mjpeg', False, True),
  ('matroska', 'mjpeg', True, False), ('mov', 'png', True, False), ('mov', 'png', False, False),
])  # fmt: skip
def test_cover_art_is_not_the_video(container, codec, cover_first, marked):
  row, frames, _ = shown.whole(with_cover(container, codec, cover_first, marked))
  assert (row['height'], row['width'], row['num_frames']) == (clips.HEIGHT, clips.WIDTH, 6)
  shown.assert_upright(frames)


def test_music_with_a_cover_is_no_video():
  buffer = io.BytesIO()
  with av.open(buffer, 'w', 'mp4') as output:
    sound = output.add_stream('aac', rate=16000, layout='mono')
    cover = output.add_stream('mjpeg', rate=1)
    cover.height = cover.width = 64
    cover.pix_fmt, cover.disposition = 'yuvj420p', 1024
    samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), 'fltp', 'mono')
    samples.sample_rate = 16000
    for stream, frame in ((sound, samples), (cover, av.VideoFrame(64, 64, 'yuvj420p'))):
      output.mux(stream.encode(frame))
      output.mux(stream.encode())
  with pytest.raises(errors.DecodeError, match='^no_video: there is cover art'):
    probe.probe(buffer.getvalue(), 'video')


@pytest.mark.parametrize('is_default', [0, 1])
def test_of_several_videos_the_one_that_is_default_is_taken_else_the_largest(is_default):
  buffer = io.BytesIO()
  with av.open(buffer, 'w', 'matroska') as output:
    streams = []
    for number, size in enumerate(((32, 48), (64, 96))):
      stream = output.add_stream('libx264', rate=12, options=clips.H264)
      stream.height, stream.width = size
      stream.pix_fmt = 'yuv420p'
      stream.disposition = 1 if is_default and number == 0 else 0
      streams.append(stream)
    for number in range(5):
      for stream in streams:
        pixels = clips.picture(number, stream.height, stream.width)
        frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
        frame.pts = number
        output.mux(stream.encode(frame))
    for stream in streams:
      output.mux(stream.encode())
  row, frames, _ = shown.whole(buffer.getvalue())
  assert (row['height'], row['width']) == ((32, 48) if is_default else (64, 96))
  shown.assert_upright(frames, 6)


def changing(second, first=None):
  """A transport stream whose second half is of another kind."""
  parts = []
  for number, more in enumerate((first or {}, second)):
    pts = [round(1000 * (12 * number + k) / 12) for k in range(12)]
    parts.append(
      clips.encode(container='mpegts', pts=pts, options=dict(clips.H264, bf='0'), **more)
    )
  return b''.join(parts)


def striped(height, width):
  """Stripes of eight pixels: stretched they are wider."""
  return (
    np.where(np.mgrid[:height, :width][1][..., None] // 8 % 2, 200, 40)
    .astype(np.uint8)
    .repeat(3, axis=2)
  )


CHANGES_TO = {'turned': (96, 64), 'larger': (128, 192)}
CHANGES: dict = {name: dict(pictures=12 * [striped(*size)]) for name, size in CHANGES_TO.items()}
CHANGES['pixels'] = dict(aspect=fractions.Fraction(4, 3))


@pytest.mark.parametrize('name', CHANGES)
def test_a_frame_size_that_changes_is_refused_by_name_and_never_stretched(name):
  data = changing(CHANGES[name])
  with pytest.raises(errors.DecodeError, match='^size_changes: 96x64.* becomes'):
    probe.probe(data, 'video')
  if name == 'pixels':
    return
  with containers.open_video(data) as video:
    times = [frame.time for frame in frames_lib.decode_all(video)]
  assert len(times) == 24
  frames, _ = decode.decode_video(data, times, 48, 48)  # As of a corpus of before.
  for number, drawn in ((3, clips.picture(3)), (20, striped(*CHANGES_TO[name]))):
    expected = crops.center_crop_resize(PIL.Image.fromarray(drawn), 48, 48)
    assert np.abs(frames[number].astype(int) - expected).mean() < 5
  row = measure.measure(data, 'video', 12.0, {})
  assert row['num_shots'] >= 1


@shown.needs_ffmpeg
def test_a_flip_that_begins_in_midstream_is_seen_at_its_frame(tmp_path):
  """By a message in the stream; the rotation, which a flip does not change, tells nothing."""
  plain = tmp_path / 'plain.h264'
  plain.write_bytes(clips.encode(container='h264', options=dict(clips.H264, bf='0', g='6')))
  flipped = tmp_path / 'flipped.h264'
  change = 'h264_metadata=display_orientation=insert:flip=vertical'
  command = [str(clips.ffmpeg_path()), '-v', 'error', '-i', plain, '-c', 'copy', '-bsf:v', change]
  subprocess.run([*command, flipped], check=True)
  data = plain.read_bytes() + flipped.read_bytes()
  with pytest.raises(errors.DecodeError, match='^size_changes: .*turned or mirrored at 1.000 s'):
    probe.probe(data, 'video')
  frames, _ = decode.decode_video(data, [11 / 12, 1.0], clips.HEIGHT, clips.WIDTH)
  for frame, drawn in zip(frames, (clips.COLOURS, clips.COLOURS[::-1]), strict=True):
    assert np.abs(clips.quadrants(frame) - drawn).max() <= 3
  with pytest.raises(errors.DecodeError, match='^size_changes'):  # Not all frames tell it.
    probe.probe(flipped.read_bytes(), 'video')


def test_ingest_rejects_what_changes_and_takes_the_rest(tmp_path):
  folder = tmp_path / 'in'
  folder.mkdir()
  kinds = {
    'sound': clips.encode(options=clips.H264), 'change': changing(CHANGES['turned']),
    'hdr': test_hdr.hdr(), 'fields': test_interlaced.interlaced('h264.mp4'),
  }  # fmt: skip
  for name, data in kinds.items():
    (folder / f'{name}.mp4').write_bytes(data)
    (folder / f'{name}.txt').write_text(name)
  options = dict(validation_fraction=0.0, num_processes=1)
  manifest = ingest.ingest(folder, tmp_path / 'strict', **options)
  assert manifest['rejected'] == {'size_changes': 1, 'hdr': 1, 'interlaced': 1}
  assert ingest.ingest(folder, tmp_path / 'strict', **options) == manifest
  taken = ingest.ingest(folder, tmp_path / 'all', takes=['hdr', 'interlaced'], **options)
  assert taken['rejected'] == {'size_changes': 1} and taken['identity'] != manifest['identity']
  corpora = reader.Corpora(tmp_path / 'all', 'train')
  rows = {row['key']: row for row in ingest_rows(corpora)}
  assert {key: (row['hdr'], row['is_interlaced']) for key, row in rows.items()} == {
    'sound.mp4': ('', False), 'hdr.mp4': ('pq', False), 'fields.mp4': ('', True),
  }  # fmt: skip


def ingest_rows(corpora):
  return [row for path in corpora.sidecars for row in pyarrow.parquet.read_table(path).to_pylist()]


def test_curate_measures_turned_videos_as_upright_ones():
  """Hooks get the picture as it is shown."""
  for display in ((0, 1, -1, 0), (-1, 0, 0, 1), (0, -1, -1, 0)):
    row = measure.measure(
      clips.turned(display), 'video', 12.0, {'text_area': f'{__name__}:redness'}
    )
    assert row['text_area'] > 0.7, display


def redness(frame_HWC):
  """1 if the top left is red and the frame wider than high."""
  height, width = frame_HWC.shape[:2]
  top_left = frame_HWC[: height // 4, : width // 4].reshape(-1, 3).mean(axis=0)
  return float(width > height and np.abs(top_left - clips.COLOURS[0, 0]).max() < 15)
