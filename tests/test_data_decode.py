"""Frames come by presentation time, from any kind of file; sizes and crops are the pipeline's."""

import fractions
import io
import pathlib

import av
import numpy as np
import PIL.Image
import pytest
from diffusers.pipelines.i2vgen_xl import pipeline_i2vgen_xl

from data_pipelines import decode, transforms

SHARED = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'


def encode(levels, pts, size=(48, 64), aspect=None, rotation=None):
  """Grey frames of the given levels at presentation times pts / 1000 s."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4') as container:
    stream = container.add_stream('libx264', rate=25, options={'crf': '1'})
    stream.height, stream.width = size
    stream.pix_fmt = 'yuv420p'
    stream.codec_context.time_base = fractions.Fraction(1, 1000)
    if aspect:
      stream.codec_context.sample_aspect_ratio = aspect
    if rotation:
      stream.set_display_rotation(rotation)
    for level, time in zip(levels, pts, strict=True):
      pixels = level if np.ndim(level) else np.full((*size, 3), level, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
      frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return buffer.getvalue()


def test_variable_rate_video_is_sampled_by_time_not_by_index():
  pts = [0, 40, 80, 120, 520, 560, 600, 1000, 1040, 1080]  # Bursts and gaps.
  levels = np.arange(10, 210, 20)
  data = encode(levels, pts)
  probe = decode.probe(data, 'video')
  assert probe['num_frames'] == 10 and probe['is_variable_rate']
  times = np.arange(0, 1.08, 0.125)
  frames, _ = decode.decode_video(data, probe['first_time'] + times, 48, 64)
  nearest = np.abs(np.array(pts)[:, None] / 1000 - times).argmin(axis=0)
  assert list(nearest) != sorted(set(nearest))  # Frames do repeat in the gaps.
  np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), levels[nearest], atol=2.5)


def test_constant_rate_video_gives_every_other_frame_at_half_the_rate():
  data = encode(np.arange(10, 250, 10), range(0, 24 * 40, 40))
  frames, first = decode.decode_video(data, 0.08 + np.arange(8) / 12.5, 48, 64)
  np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), np.arange(30, 190, 20), atol=2.5)
  assert abs(np.asarray(first).mean() - 30) < 2.5


@pytest.mark.parametrize('name', ['1066674877.mp4', 'v_PlayingGuitar_g03_c01.avi'])
def test_seeking_gives_the_same_frames_as_decoding_from_the_start(name, monkeypatch):
  data = (SHARED / 'videos' / name).read_bytes()
  for start in (1.5, 3.21, 7.9):
    times = start + np.arange(8) / 8
    sought, _ = decode.decode_video(data, times, 64, 64)
    monkeypatch.setattr(decode, 'SEEK_AFTER_SECS', 1e9)
    from_start, _ = decode.decode_video(data, times, 64, 64)
    monkeypatch.undo()
    np.testing.assert_array_equal(sought, from_start)


def test_a_time_after_the_end_is_an_error_and_not_a_padded_frame():
  data = encode(np.arange(10, 90, 10), range(0, 320, 40))
  decode.decode_video(data, np.array([0.28, 0.299]), 48, 64)
  with pytest.raises(decode.DecodeError, match='ends at 0.280 s'):
    decode.decode_video(data, np.array([0.0, 0.4]), 48, 64)


def test_wide_pixels_are_made_square():
  data = encode([50] * 4, range(0, 160, 40), aspect=fractions.Fraction(2, 1))
  probe = decode.probe(data, 'video')
  assert (probe['height'], probe['width']) == (48, 128)
  assert decode.decode_video(data, np.array([0.0]), 48, 64)[1].size == (128, 48)


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_rotated_video_is_upright(rotation):
  pixels = np.zeros((48, 64, 3), np.uint8)
  pixels[:16, :16] = 255  # Top left as stored.
  data = encode([pixels] * 4, range(0, 160, 40), rotation=rotation)
  upright = np.rot90(pixels, rotation // 90)
  probe = decode.probe(data, 'video')
  assert (probe['height'], probe['width']) == upright.shape[:2]
  frames, first = decode.decode_video(data, np.array([0.0]), *upright.shape[:2])
  assert np.abs(frames[0].astype(int) - upright).mean() < 6
  assert np.abs(np.asarray(first).astype(int) - upright).mean() < 6


def test_colours_survive_scaling_without_bias():
  rng = np.random.default_rng(0)
  pixels = np.kron(rng.integers(40, 215, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
  frames, first = decode.decode_video(encode([pixels] * 3, [0, 40, 80], (96, 128)), [0.0], 48, 64)
  boxed = transforms.center_crop_resize(PIL.Image.fromarray(pixels), 48, 64)
  for decoded, expected in ((frames[0], boxed), (first, pixels)):
    error = np.asarray(decoded).astype(float) - np.asarray(expected)
    assert abs(error.mean()) < 0.4 and np.abs(error).mean() < 4


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK'])
def test_images_of_all_modes_become_rgb(mode):
  buffer = io.BytesIO()
  image = PIL.Image.new('RGB', (20, 10), (200, 30, 40)).convert(mode)
  image.save(buffer, 'tiff' if mode == 'CMYK' else 'png')
  decoded = decode.decode_image(buffer.getvalue())
  assert decoded.mode == 'RGB' and decoded.size == (20, 10)


SIZES = [(596, 336), (320, 240), (256, 256), (1024, 1024), (777, 333), (96, 96), (1280, 853)]
SIZES += [tuple(size) for size in np.random.default_rng(0).integers(64, 1500, (20, 2)).tolist()]


@pytest.mark.parametrize('source', SIZES, ids=str)
def test_crops_equal_diffusers_but_for_its_missing_pixel(source):
  rng = np.random.default_rng(sum(source))
  pixels = rng.integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
  image = PIL.Image.fromarray(pixels)
  for height, width in ((256, 448), (704, 1280), (64, 64)):
    ours = transforms.center_crop_resize(image, height, width)
    assert ours.size == (width, height)
    scale = min(source[0] / width, source[1] / height)
    if source[0] // scale < width or source[1] // scale < height:
      continue  # There diffusers pads a black row or column.
    theirs = pipeline_i2vgen_xl._center_crop_wide(image, (width, height))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
  for width in (448, 64):
    ours = transforms.clip_square(image, width, 224)
    if min(side // (min(source) / width) for side in source) < width:
      continue
    square = pipeline_i2vgen_xl._center_crop_wide(image, (width, width))
    theirs = pipeline_i2vgen_xl._resize_bilinear(square, (224, 224))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize('source', SIZES, ids=str)
def test_crops_of_a_white_image_are_white_to_the_edge(source):
  """VGen's rounding down leaves a black row or column in some of these."""
  image = PIL.Image.new('RGB', source, 'white')
  for height, width in ((256, 448), (720, 1280)):
    assert np.asarray(transforms.center_crop_resize(image, height, width)).min() == 255
  assert np.asarray(transforms.clip_square(image, 448, 224)).min() == 255


def test_scaled_sizes_always_cover_the_target():
  short = 0
  for source in SIZES + np.random.default_rng(1).integers(8, 4000, (2000, 2)).tolist():
    height, width = transforms.scaled_size(source[1], source[0], 720, 1280)
    assert height >= 720 and width >= 1280 and (height == 720 or width == 1280)
    scale = min(source[0] / 1280, source[1] / 720)
    short += source[0] // scale < 1280 or source[1] // scale < 720
  assert short  # The case that is repaired does occur.
