"""Curation finds what was put into synthetic videos: cuts, speeds, areas, copies; and what was
forbidden stays out."""

import csv
import io
import json
import pathlib

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.corpus import schema
from data_pipelines.curate import borders, decide, kept, measure
from data_pipelines.curate import command as curate
from data_pipelines.ingest import command as ingest
from data_pipelines.media import errors
from tests import corpora

HEIGHT, WIDTH, FPS = 144, 256, 24


def texture(seed, height, width, low=40, high=215, scale=3):
  noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
  noise = cv2.GaussianBlur(noise, (0, 0), scale)
  noise = (noise - noise.min()) / np.ptp(noise)
  return (low + (high - low) * noise).astype(np.uint8)


def pan(seed, num_frames, pixels_per_frame=0.0, area=0.0, subject_speed=2):
  """A textured scene that the camera pans over; a disc of its own texture moves before it."""
  scene = texture(seed, HEIGHT, WIDTH + int(pixels_per_frame * num_frames) + 2)
  body = texture(seed + 1000, HEIGHT, WIDTH)
  body[..., 0] = 240
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  radius = np.sqrt(area * HEIGHT * WIDTH / np.pi)
  frames = []
  for index in range(num_frames):
    shift = np.float32([[1, 0, -pixels_per_frame * index], [0, 1, 0]])
    frame = cv2.warpAffine(scene, shift, (WIDTH, HEIGHT))
    center = WIDTH / 2 - subject_speed * num_frames / 2 + subject_speed * index
    disc = (x - center) ** 2 + (y - HEIGHT / 2) ** 2 < radius**2
    frame[disc] = np.roll(body, round(subject_speed * index), axis=1)[disc]
    frames.append(frame)
  return np.stack(frames)


def measured(frames, fps=FPS):
  return measure.measure(demo_corpus.encode_video(frames, fps), 'video', fps, {})


def test_cuts_are_found_to_the_frame_and_the_longest_shot_is_the_span():
  lengths = [20, 36, 24]
  row = measured(np.concatenate([pan(seed, n, 1.0) for seed, n in enumerate(lengths)]))
  assert row['num_shots'] == 3
  np.testing.assert_allclose(row['cuts'], [20 / FPS, 56 / FPS], atol=1e-6)
  assert row['span_start'] == pytest.approx(20 / FPS)
  assert row['span_end'] == pytest.approx(55 / FPS)
  assert row['camera_motion'] == pytest.approx(FPS / np.hypot(HEIGHT, WIDTH), rel=0.1)


def test_fast_motion_is_no_cut():
  assert measured(pan(5, 40, 9.0))['cuts'] == []


@pytest.mark.parametrize('pixels_per_frame', [0.25, 0.5, 1.5, 3.0])
def test_pan_speed_is_the_measured_flow(pixels_per_frame):
  row = measured(pan(3, 32, pixels_per_frame))
  expected = pixels_per_frame * FPS / np.hypot(HEIGHT, WIDTH)
  tolerance = 0.1 if pixels_per_frame >= 0.5 else 0.2  # Below a pixel the flow itself is rough.
  assert row['motion'] == pytest.approx(expected, rel=tolerance)
  assert row['camera_motion'] == pytest.approx(expected, rel=tolerance)
  assert row['object_motion'] < tolerance * expected


def test_motion_is_the_same_at_another_size_and_rate():
  frames = pan(4, 48, 1.0)
  large = np.stack([cv2.resize(frame, (2 * WIDTH, 2 * HEIGHT)) for frame in frames])
  rows = [measured(frames), measured(large[::2], FPS // 2)]
  assert rows[0]['motion'] == pytest.approx(rows[1]['motion'], rel=0.1)


def test_what_moves_before_a_still_camera_is_object_motion():
  row = measured(pan(6, 32, 0.0, area=0.1))
  assert row['camera_motion'] < 0.1 * row['object_motion']
  # A tenth of the frame moves at two pixels per frame.
  assert row['object_motion'] == pytest.approx(0.2 * FPS / np.hypot(HEIGHT, WIDTH), rel=0.5)


def test_borders_are_measured():
  frames = pan(8, 24, 1.0)
  assert measured(frames)['border_area'] == 0
  frames[:, :18] = frames[:, -18:] = 0
  assert measured(frames)['border_area'] == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
  'kind, box',  # Rows or columns of black, white or grey at (top, left, bottom, right).
  [
    ('none', None),
    ((18, 0, 18, 0, 0), (18, 0, 108, 256)),
    ((0, 80, 0, 80, 0), (0, 80, 144, 96)),
    ((18, 60, 18, 60, 255), (18, 60, 108, 136)),
    ((0, 0, 30, 0, 0), (0, 0, 114, 256)),
    ('disc', None),
    ('caption', (18, 0, 108, 256)),
    ('second shot', (18, 0, 108, 256)),
    ('first shot', None),
  ],
)
def test_content_is_what_borders_leave_within_the_span(kind, box):
  frames = pan(8, 24, 1.0)
  if kind == 'disc':  # Before a plain backdrop, which is no border.
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frames[:, (x - 130) ** 2 + (y - 72) ** 2 > 40**2] = 240
  elif kind == 'caption':
    frames[:, :18] = frames[:, -18:] = 0
    frames[12:16, -12:-8, 120:126] = 250
  elif kind == 'second shot':
    frames = np.concatenate([frames, pan(3, 40, 1.0)])
    frames[24:, :18] = frames[24:, -18:] = 0
  elif kind == 'first shot':
    frames[:, :18] = frames[:, -18:] = 0
    frames = np.concatenate([frames, pan(3, 40, 1.0)])
  elif kind != 'none':
    top, left, bottom, right, color = kind
    frames[:, :top] = frames[:, HEIGHT - bottom :] = color
    frames[:, :, :left] = frames[:, :, WIDTH - right :] = color
  row = measured(frames)
  found = [row[name] for name in schema.CONTENT]
  if box is None:
    assert found == [None] * 4
    return
  sides = (HEIGHT, WIDTH, HEIGHT, WIDTH)
  top, left, height, width = (share * side for share, side in zip(found, sides, strict=True))
  # Within the borders, by two lines at most.
  assert 0 <= top - box[0] <= 2 and 0 <= left - box[1] <= 2
  assert 0 <= box[0] + box[2] - (top + height) <= 2
  assert 0 <= box[1] + box[3] - (left + width) <= 2


def test_a_faint_slope_has_no_content_box():
  slope = np.linspace(100, 113, 144).astype(np.uint8)
  assert borders.content_box([np.broadcast_to(slope[:, None, None], (144, 256, 3)).copy()]) is None


def test_memory_is_bounded_and_long_videos_keep_frames_from_everywhere(monkeypatch):
  monkeypatch.setattr(kept, 'MAX_KEPT', 4)
  sizes = []
  nearest = kept.nearest
  monkeypatch.setattr(
    kept, 'nearest', lambda frames, time: sizes.append(len(frames)) or nearest(frames, time)
  )
  row = measured(pan(9, 96, 0.5, area=0.1), fps=8)
  assert max(sizes) < 8 and len(row['hashes']) == 3


def write_corpus(folder):
  """Two shots, a copy of it, one with black borders, a short one, one that is damaged later."""
  two_shots = np.concatenate([pan(0, 20, 1.0), pan(1, 36, 1.0)])
  bordered = pan(2, 36, 1.0)
  bordered[:, :40] = bordered[:, -40:] = 0
  videos = dict(
    a_shots=two_shots, b_copy=two_shots[:, ::2, ::2], c_border=bordered, d_short=pan(3, 12, 1.0),
    e_long_caption=pan(4, 36, 1.0),
  )  # fmt: skip
  folder.mkdir()
  for name, frames in videos.items():
    (folder / f'{name}.mp4').write_bytes(demo_corpus.encode_video(frames, FPS))
    caption = '\ufffd'.encode() + b'word ' * 300 if name == 'e_long_caption' else name.encode()
    (folder / f'{name}.txt').write_bytes(caption)
  return folder


def rows_of(directory):
  rows = []
  for split in ('train', 'validation'):
    for file in sorted(pathlib.Path(directory, 'sidecar/curate').glob(f'{split}-*.parquet')):
      base = pa.parquet.read_table(file.parents[1] / file.name).to_pylist()
      added = pa.parquet.read_table(file).to_pylist()
      assert [row['key'] for row in base] == [row['key'] for row in added]
      rows += added
  assert rows, f'{directory} has no sidecars of curate'
  return {row['key']: row for row in rows}


def test_curate_says_why_and_writes_the_same_again_from_what_was_measured(
  tmp_path, capsys, monkeypatch
):
  source = write_corpus(tmp_path / 'in')
  directory = str(tmp_path / 'out')
  ingest.ingest(str(source), directory, validation_fraction=0.0, num_processes=1)
  command = ['curate', f'--corpus={directory}', '--min_short_side=64', '--num_processes=1']
  command += ['--max_border_area=0.25']
  commands.main(command)
  said = capsys.readouterr().out
  assert 'duplicate: 1 rejected, 2 left: a copy of another' in said and '(b_copy.mp4)' in said
  assert (
    'its longest single shot is under --min_duration=1.0 seconds (d_short.mp4)' in said
    and 'its plain borders exceed --max_border_area=0.25 (c_border.mp4)' in said
  )
  rows = rows_of(directory)
  assert {key.removesuffix('.mp4'): row['reject'] for key, row in rows.items()} == dict(
    a_shots=[], b_copy=['duplicate'], c_border=['border'], d_short=['duration'], e_long_caption=[]
  )
  assert rows['e_long_caption.mp4']['flags'] == ['caption_long', 'caption_not_utf8']
  assert rows['a_shots.mp4']['span_start'] == pytest.approx(20 / FPS)
  files = sorted(pathlib.Path(directory, 'sidecar/curate').iterdir())
  first = [file.read_bytes() for file in files]
  monkeypatch.setattr(curate.MeasureShard, '__call__', None)  # Nothing is measured again.
  commands.main([*command, '--min_motion=9'])
  assert not any(row['keep'] for row in rows_of(directory).values())
  commands.main(command)
  assert [file.read_bytes() for file in files] == first


def test_media_that_rots_is_dropped_and_named(tmp_path):
  source = write_corpus(tmp_path / 'in')
  directory = tmp_path / 'out'
  ingest.ingest(str(source), str(directory), validation_fraction=0.0, num_processes=1)
  file = next(directory.glob('corpus-train*'))
  data = (source / 'c_border.mp4').read_bytes()
  damaged = file.read_bytes().replace(data, bytes(len(data)))
  assert damaged != file.read_bytes()
  file.write_bytes(damaged)
  curate.curate(str(directory), decide.Rules(min_short_side=64), num_processes=1)
  row = rows_of(directory)['c_border.mp4']
  assert 'damaged' in row['reject'] and row['flags'] == ['damaged:record'] and not row['keep']


def test_a_copy_of_a_held_out_video_is_not_trained_on(tmp_path):
  source = write_corpus(tmp_path / 'in')
  (source / 'val').mkdir()
  for name in ('b_copy.mp4', 'b_copy.txt'):
    (source / name).rename(source / 'val' / name)
  ingest.ingest(str(source), str(tmp_path / 'out'), num_processes=1)
  curate.curate(str(tmp_path / 'out'), decide.Rules(min_short_side=64), num_processes=1)
  rows = rows_of(tmp_path / 'out')
  assert rows['val/b_copy.mp4']['keep'] and rows['a_shots.mp4']['reject'] == ['duplicate']


def write_laion(folder):
  """Six images as img2dataset has them; the last is a copy of the first."""
  folder.mkdir()
  rows, groups = [], []
  for index, nsfw in enumerate(['UNLIKELY', 'NSFW', 'UNSURE', None, 'UNLIKELY', 'UNLIKELY']):
    buffer = io.BytesIO()
    PIL.Image.fromarray(texture(index % 5, 400, 400)).save(buffer, 'jpeg')
    row = dict(key=f'{index:09d}', url=f'https://example.com/{index}', caption='c', NSFW=nsfw)
    rows.append(dict(row, status='success', error_message=None, pwatermark=0.9 * (index == 4)))
    groups.append((f'{row["key"]}.jpg', buffer.getvalue()))
    groups += [(f'{row["key"]}.txt', b'c'), (f'{row["key"]}.json', json.dumps(row).encode())]
  corpora.write_tar(folder / '00000.tar', groups)
  pa.parquet.write_table(pa.Table.from_pylist(rows), folder / '00000.parquet')
  return folder


@pytest.fixture(scope='module')
def laion(tmp_path_factory):
  root = tmp_path_factory.mktemp('laion')
  source = write_laion(root / 'in')
  ingest.ingest(str(source), str(root / 'out'), validation_fraction=0.0, num_processes=1)
  return root / 'out'


def reasons(directory):
  return [row['reject'] for _, row in sorted(rows_of(directory).items())]


def test_laion_without_a_denylist_is_refused_unless_a_reason_is_given(laion):
  command = ['curate', f'--corpus={laion}', '--num_processes=1']
  with corpora.ends_with_2('6 images come from the web .* give --denylist=FILE'):
    commands.main(command)
  assert not (laion / 'sidecar/curate').exists()
  commands.main([*command, '--allow-no-denylist=a test'])
  summary = json.loads((laion / 'sidecar/curate/manifest.json').read_text())
  assert summary['no_denylist'] == 'a test'
  assert reasons(laion) == [[], ['nsfw'], ['nsfw'], ['nsfw'], [], ['duplicate']]


@pytest.mark.parametrize('kind', ['parquet', 'csv', 'txt'])
def test_denied_links_and_their_copies_are_dropped(laion, tmp_path, kind):
  file = tmp_path / f'denied.{kind}'
  links = ['https://example.com/0', 'https://example.com/none']
  if kind == 'parquet':
    pa.parquet.write_table(pa.table({'URL': links}), file)
  elif kind == 'csv':
    with file.open('w', newline='') as lines:
      csv.writer(lines).writerows([['id', 'url'], *([i, link] for i, link in enumerate(links))])
  else:
    file.write_text('\n'.join(links))
  rules = decide.Rules(nsfw=('UNLIKELY', 'UNSURE'), max_watermark=0.8)
  summary = curate.curate(str(laion), rules, denylists=[str(file)], num_processes=1)
  assert reasons(laion) == [
    ['denylist'], ['nsfw'], [], ['nsfw'], ['watermark'], ['denylist', 'duplicate'],
  ]  # fmt: skip
  assert summary['num_kept'] == 1 and list(summary['denylists']) == [str(file)]


def test_denylists_that_say_nothing_are_refused(laion, tmp_path):
  empty, other = tmp_path / 'a.txt', tmp_path / 'b.csv'
  empty.write_text('')
  other.write_text('id,name\n1,x\n')
  for file, message in ((empty, 'is empty'), (other, 'needs one of'), ('/no', 'does not exist')):
    with pytest.raises(ValueError, match=message):
      curate.curate(str(laion), denylists=[str(file)], num_processes=1)


def text_share(frame_HWC):
  """As a user's text detector would be: the share of white."""
  assert frame_HWC.dtype == np.uint8 and frame_HWC.shape[-1] == 3
  return float((frame_HWC > 250).all(axis=-1).mean())


def test_hooks_fill_their_columns(tmp_path):
  source = tmp_path / 'in'
  source.mkdir()
  for name in ('plain', 'written'):
    frames = pan(11 if name == 'plain' else 12, 36, 1.0)
    if name == 'written':
      frames[:, 60:100, 60:200] = 255
    (source / f'{name}.mp4').write_bytes(demo_corpus.encode_video(frames, FPS))
    (source / f'{name}.txt').write_text(name)
  directory = str(tmp_path / 'out')
  ingest.ingest(str(source), directory, validation_fraction=0.0, num_processes=1)
  hook = 'tests.data_pipelines.curate.test_curate:text_share'
  rules = decide.Rules(min_short_side=64, max_text_area=0.05)
  curate.curate(directory, rules, hooks={'text_area': hook}, num_processes=1)
  rows = rows_of(directory)
  assert rows['plain.mp4']['keep'] and rows['written.mp4']['reject'] == ['text']
  assert rows['written.mp4']['text_area'] == pytest.approx(40 * 140 / HEIGHT / WIDTH, rel=0.1)
  with pytest.raises(ValueError, match='should be module:function'):
    curate.curate(directory, hooks={'text_area': 'nothing'}, num_processes=1)
  with pytest.raises(ValueError, match='only text_area and watermark_score'):
    curate.curate(directory, hooks={'motion': hook}, num_processes=1)


def test_videos_of_two_codecs_and_photographs_are_curated(media_folder, tmp_path):
  for name, count in (('videos', 5), ('images', 4)):
    ingest.ingest(str(media_folder / name), str(tmp_path / name), num_processes=1)
    rules = decide.Rules(min_short_side=240)
    summary = curate.curate(str(tmp_path / name), rules, num_processes=1)
    assert summary['num_kept'] == summary['num_examples'] == count
    for row in rows_of(tmp_path / name).values():
      assert row['num_shots'] == 1
      assert (row['motion'] is None) == (name == 'images')
  flower, cat = (rows_of(tmp_path / 'videos')[key] for key in ('flower.mp4', '0001_cat.mp4'))
  assert flower['motion'] < 0.01 < 0.1 < cat['motion']


def test_undecodable_media_is_a_decode_error():
  with pytest.raises(errors.DecodeError):
    measure.measure(corpora.flip_bits(corpora.video()), 'video', 16, {})
