"""Videos written are the videos that players read, in the colours that were given."""

import struct
import subprocess

import av
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest

from i2vgen_jax.sampling import video_file


def clip(value):
  frames = np.full((5, 16, 24, 3), value, np.uint8)
  frames[:, :, :12] = 255 - value
  return frames


def read(path):
  with av.open(str(path)) as container:
    stream = container.streams.video[0]
    frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
    # Taken while the file is open: a stream's fields lie in memory that closing it frees.
    codec = stream.codec_context
    return np.stack(frames), (float(stream.average_rate), codec.name, codec.pix_fmt)


def ffmpeg_decode(path, height, width):
  """What FFmpeg's own command makes of a file, without an option about colours."""
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-i', str(path)]
  done = subprocess.run([*command, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'], capture_output=True)
  assert done.returncode == 0, done.stderr
  return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize('fps', [8, 16, 29.97, 2.5])
def test_frames_and_rate_come_back(fps, tmp_path):
  video_file.write_mp4(tmp_path / 'new' / 'a.mp4', clip(60), fps)
  frames, (rate, codec, pix_fmt) = read(tmp_path / 'new' / 'a.mp4')
  assert frames.shape == (5, 16, 24, 3)
  assert np.abs(frames.astype(int) - clip(60)).mean() < 6  # H.264 with halved chroma.
  assert rate == pytest.approx(fps, rel=1e-3)
  assert codec == 'h264' and pix_fmt == 'yuv420p'


def test_an_existing_video_is_replaced_and_nothing_is_left_beside(tmp_path):
  video_file.write(tmp_path / 'a.mp4', clip(60), 8)
  video_file.write(tmp_path / 'a.mp4', clip(200), 8)
  assert read(tmp_path / 'a.mp4')[0][0, 0, 20, 0] > 150
  assert [path.name for path in tmp_path.iterdir()] == ['a.mp4']


def test_odd_sizes_are_refused(tmp_path):
  with pytest.raises(ValueError, match='15x16 must be even'):
    video_file.write(tmp_path / 'a.mp4', np.zeros((2, 16, 15, 3), np.uint8), 8)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['a.avi', 'a', 'a.mp4.part', '.gif', 'a.png'])
def test_other_endings_are_refused_by_the_three_that_there_are(name, tmp_path):
  with pytest.raises(ValueError, match=r'must end in \.mp4, \.gif, \.webp'):
    video_file.write(tmp_path / name, clip(60), 8)


def patches(height, width):
  """Flat squares of random colours, corners of the cube among them; (H, W, 3) and their centres."""
  rng = np.random.default_rng(0)
  colours = rng.integers(0, 256, (4, 4, 3))
  colours[0] = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
  colours[1] = [(0, 0, 0), (255, 255, 0), (0, 255, 255), (128, 128, 128)]
  picture = colours.repeat(height // 4, 0).repeat(width // 4, 1).astype(np.uint8)
  rows, columns = (np.arange(4) * (side // 4) + side // 8 for side in (height, width))
  return picture, np.ix_(rows, columns)


def bt709(yuv):
  """Video-range Y'CbCr -> R'G'B' in 0..255, by ITU-R BT.709's own equations."""
  luma, blue, red = ((yuv - (16, 128, 128)) / (219, 224, 224)).transpose(2, 0, 1)
  r, b = luma + 1.5748 * red, luma + 1.8556 * blue
  return 255 * np.stack([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b], -1)


@pytest.mark.parametrize('size', [(64, 64), (256, 448), (480, 640), (720, 1280)], ids=str)
def test_players_show_the_colours_that_were_given(size, tmp_path):
  picture, centres = patches(*size)
  video_file.write(tmp_path / 'a.mp4', np.stack([picture] * 3), 8)
  given = picture[centres].astype(float)
  # The codec's own loss: its samples, turned back without rounding.
  with av.open(str(tmp_path / 'a.mp4')) as container:
    *_, frame = container.decode(video=0)
    tags = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    planes = [
      np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[:, : p.width] for p in frame.planes
    ]
  assert tags == (1, 1, 1, 1)  # BT.709 in video range.
  (rows, columns) = centres
  yuv = [planes[0][centres], *(plane[rows // 2, columns // 2] for plane in planes[1:])]
  loss = np.abs(np.clip(bt709(np.stack(yuv, -1).astype(float)), 0, 255) - given).max()
  shown = ffmpeg_decode(tmp_path / 'a.mp4', *size)[-1][centres]
  assert loss < 5
  assert np.abs(shown - given).max() <= 2 + loss


@pytest.mark.parametrize('fps', [3, 7, 8, 12, 15, 16, 23.976, 24, 29.97, 30, 60, 120])
@pytest.mark.parametrize('ending', ['gif', 'webp', 'GIF'])
def test_animations_last_as_long_as_the_video(ending, fps, tmp_path):
  frames = np.stack([np.full((16, 24, 3), 10 * index, np.uint8) for index in range(23)])
  video_file.write(tmp_path / f'a.{ending}', frames, fps)
  with PIL.Image.open(tmp_path / f'a.{ending}') as image:
    assert image.format == ending.upper() and image.size == (24, 16)
    assert image.info['loop'] == 0
    delays, levels = [], []
    for index in range(image.n_frames):
      image.seek(index)
      image.load()
      delays.append(image.info['duration'])
      levels.append(np.asarray(image.convert('RGB')).mean())
  unit = 10 if ending.lower() == 'gif' else 1
  assert abs(sum(delays) - 23_000 / fps) <= unit / 2 + 1e-6
  starts = np.cumsum([0, *delays[:-1]]) / 1000
  np.testing.assert_allclose(levels, 10 * starts * fps, atol=3 + 10 * fps * unit / 2000)
  if unit == 10:
    assert min(delays[:-1]) >= 20  # Browsers show shorter ones as 100.
    assert len(levels) == (23 if fps <= 50 else 12 if fps == 60 else 8)
  else:
    assert len(levels) == 23


def test_an_mp4_names_its_colours_in_its_container_too(tmp_path):
  """QuickTime and browsers read the box `colr`, and not the stream."""
  video_file.write(tmp_path / 'a.mp4', clip(60), 8)
  data = (tmp_path / 'a.mp4').read_bytes()
  start = data.index(b'colrnclx')
  assert struct.unpack_from('>HHH', data, start + 8) == (1, 1, 1) and data[start + 14] == 0
