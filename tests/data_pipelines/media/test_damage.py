"""Damaged and odd files, made for real, on their whole way: ingest, curate, verify, decode.

What is rejected at the door is in test_data_ingest, damaged tars and tables in test_data_ingest and
test_data_inspect, crashing decoders in test_data_jobs and test_data_workers.
"""

import fractions
import pathlib

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from data_pipelines.corpus import buckets
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from data_pipelines.media import decode, probe
from data_pipelines.stream import fields
from data_pipelines.stream import stream as stream_lib
from tests import corpora
from tests.data_pipelines.curate.test_curate import pan

FPS = 24


def encode(path, frames, pts=None, pix_fmt='yuv420p', **options):
  """H.264 mp4 with its index in front, as downloads have it; pts in milliseconds."""
  with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
    stream = container.add_stream('libx264', rate=FPS, options={'g': '24', **options})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = pix_fmt
    if pts is not None:
      stream.codec_context.time_base = stream.time_base = fractions.Fraction(1, 1000)
    for number, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      if pts is not None:
        frame.pts, frame.time_base = int(pts[number]), stream.codec_context.time_base
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  data = path.read_bytes()
  assert data.index(b'moov') < data.index(b'mdat')
  return data


def flip(data, start):
  """Damages the coded pictures from a share of them on."""
  damaged = bytearray(data)
  first = data.index(b'mdat')
  for offset in range(first + int(start * (len(data) - first)), len(data), 7):
    damaged[offset] ^= 0xA5
  return bytes(damaged)


def curated(folder, output):
  """Ingested and curated: {key: row of all sidecars}."""
  ingest.ingest(str(folder), str(output), validation_fraction=0.0, num_processes=1)
  curate.curate(str(output), decide.Rules(min_short_side=16), num_processes=1)
  rows = []
  for path in pathlib.Path(output).glob('sidecar/train-*.parquet'):
    added = parquet.read_table(path.parent / 'curate' / path.name).to_pylist()
    rows += [a | b for a, b in zip(parquet.read_table(path).to_pylist(), added, strict=True)]
  assert rows, f'{output} has no sidecars'
  return {row['key']: row for row in rows}


@pytest.fixture(scope='module')
def pictures():
  """Three seconds of a pan."""
  return pan(0, 72, 1.0)


def test_of_a_video_damaged_further_on_what_precedes_the_damage_is_kept(tmp_path, pictures):
  folder = tmp_path / 'in'
  folder.mkdir()
  sound = encode(folder / 'sound.mp4', pictures)
  first = sound.index(b'mdat')
  cut = sound[: first + int(0.85 * (len(sound) - first))]
  files = dict(
    cut=cut, flipped=flip(sound, 0.85), early=flip(sound, 0.1), short=cut[: first + 4000]
  )
  for name, data in dict(files, sound=sound).items():
    (folder / f'{name}.mp4').write_bytes(data)
    (folder / f'{name}.txt').write_text(name)
  rows = curated(folder, tmp_path / 'out')
  assert set(rows) == {'cut.mp4', 'flipped.mp4', 'sound.mp4'}  # The others have no whole second.
  assert rows['sound.mp4']['flags'] == [] and rows['sound.mp4']['num_frames'] == 72
  whole, _ = decode.decode_video(sound, np.arange(72) / FPS, 36, 64)
  for name in ('cut', 'flipped'):
    row = rows[f'{name}.mp4']
    assert row['is_truncated'] and row['flags'] == ['truncated']
    assert FPS < row['num_frames'] < 70 and row['keep'] != ('duplicate' in row['reject'])
    assert row['span_end'] <= row['first_time'] + row['duration'] + 1e-6
    times = row['first_time'] + np.arange(row['num_frames']) / FPS
    found, _ = decode.decode_video(files[name], times, 36, 64)
    np.testing.assert_array_equal(found, whole[: row['num_frames']])  # To the last one kept.
  assert not verify.verify(str(tmp_path / 'out'), 1.0, num_processes=1).problems
  check_stream(tmp_path / 'out', rows, sound)


def check_stream(directory, rows, sound):
  """Training draws what precedes the damage, to its last frame, and never what follows."""
  second, all_of_it = (
    buckets.Bucket(name, frames, 32, 64, fps=8, batch_size=3)
    for name, frames in (('second', 8), ('all', 24))
  )
  stream = stream_lib.TrainStream(
    str(directory), [second, all_of_it], [fields.Video()], seed=0, max_bad_fraction=0.0
  )
  drawn = {'second': {}, 'all': {}}
  for step in range(24):
    batch, bucket = stream.batch_at(step), stream.bucket_at(step)
    for example, video in zip(stream.examples_at(step), batch['video'], strict=True):
      expected, _ = decode.decode_video(sound, np.array(example['times']), 32, 64)
      np.testing.assert_array_equal(video, expected)
      last = drawn[bucket.name].setdefault(example['key'], [])
      last.append(example['times'][-1] - rows[example['key']]['first_time'])
  stream.close()
  assert set(drawn['second']) == set(rows) and set(drawn['all']) == {'sound.mp4'}
  for key, last in drawn['second'].items():
    assert rows[key]['duration'] - 0.5 < max(last) <= rows[key]['duration'] + 1e-3


@pytest.mark.parametrize('is_cut', [True, False], ids=['cut', 'flipped'])
def test_of_an_avi_damaged_half_way_the_sound_half_is_kept(is_cut, media_folder):
  sound = (media_folder / 'videos' / 'guitar_g03.avi').read_bytes()
  half = len(sound) // 2
  damaged = sound[:half] + (b'' if is_cut else bytes(byte ^ 0xA5 for byte in sound[half:]))
  row = probe.probe(damaged, 'video')
  assert row['is_truncated'] and 110 < row['num_frames'] < 140  # Of 250.
  times = row['first_time'] + np.arange(row['num_frames']) / row['fps']
  found, whole = (decode.decode_video(data, times, 60, 80)[0] for data in (damaged, sound))
  np.testing.assert_array_equal(found, whole)


def test_variable_rate_is_flagged_and_a_little_jitter_is_not(tmp_path, pictures):
  folder = tmp_path / 'in'
  folder.mkdir()
  steady = np.arange(48) * 40
  encode(folder / 'jitter.mp4', pictures[:48], steady + np.arange(48) % 2 * 4)
  encode(folder / 'bursts.mp4', pictures[24:], steady + np.arange(48) // 8 * 300)
  for name in ('jitter', 'bursts'):
    (folder / f'{name}.txt').write_text(name)
  rows = curated(folder, tmp_path / 'out')
  assert (
    rows['bursts.mp4']['flags'] == ['variable_rate', 'hole'] and rows['jitter.mp4']['flags'] == []
  )
  assert rows['bursts.mp4']['is_variable_rate'] and not rows['jitter.mp4']['is_variable_rate']
  assert rows['bursts.mp4']['duration'] == pytest.approx((47 * 40 + 5 * 300) / 1000)
  assert rows['bursts.mp4']['longest_gap'] == pytest.approx(0.34)
  assert rows['bursts.mp4']['fps'] == pytest.approx(47 / rows['bursts.mp4']['duration'])


@pytest.mark.parametrize('pix_fmt', ['yuv444p', 'yuv420p10le', 'yuv444p10le'])
def test_odd_sizes_and_deep_or_full_chroma_keep_their_colours(tmp_path, pix_fmt):
  height, width = (63, 95) if pix_fmt.startswith('yuv444') else (62, 94)
  colour = np.array([200, 60, 120], np.uint8)
  frames = np.broadcast_to(colour, (8, height, width, 3))
  data = encode(tmp_path / 'a.mp4', np.ascontiguousarray(frames), pix_fmt=pix_fmt)
  row = probe.probe(data, 'video')
  assert (row['height'], row['width'], row['num_frames']) == (height, width, 8)
  found, square = decode.decode_video(data, np.array([0.0, 0.2]), 32, 40, 16)
  assert found.shape == (2, 32, 40, 3) and square.shape == (16, 16, 3)
  np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), colour, atol=3)


def test_captions_are_flagged_never_dropped(tmp_path):
  folder = corpora.write_folder(tmp_path / 'in', 4)
  for name, caption in (('000', b' \n'), ('001', b'word ' * 300), ('002', 'caf\ufffd'.encode())):
    (folder / f'{name}.txt').write_bytes(caption)
  rows = curated(folder, tmp_path / 'out')
  assert [rows[f'{i:03d}.mp4']['flags'] for i in range(4)] == [
    ['caption_empty'], ['caption_long'], ['caption_not_utf8'], []
  ]  # fmt: skip
  assert rows['001.mp4']['caption_length'] == 1499


def test_an_infinite_score_is_unknown_to_the_index_and_named_by_verify(tmp_path):
  folder = corpora.write_folder(tmp_path / 'in', 4)
  curated(folder, tmp_path / 'out')
  [path] = (tmp_path / 'out/sidecar/curate').glob('*.parquet')
  table = parquet.read_table(path)
  place = table.schema.get_field_index('motion')
  motion = table['motion'].to_pylist()[:2] + [float('inf'), float('nan')]
  table = table.set_column(place, table.field(place), pa.array(motion, pa.float32()))
  spans = pa.nulls(4, table.field('spans').type)  # Each is one shot; `index` takes its own values.
  table = table.set_column(table.schema.get_field_index('spans'), table.field('spans'), spans)
  parquet.write_table(table, path)
  [infinite, missing] = verify.verify(str(tmp_path / 'out'), 0.0, num_processes=1).problems
  assert "motion of '002.mp4' is inf" in infinite and "motion of '003.mp4' is nan" in missing
  manifest = index.index(
    {'out': str(tmp_path / 'out')}, str(tmp_path / 'index'), ['true or keep'], ['motion'], 1
  )
  assert {cell['name']: cell['places'] for cell in manifest['cells']} == {
    'video motion=0': [0, 2], 'video motion=unknown': [2, 4],
  }  # fmt: skip
