"""Frames come by presentation time, from any kind of file; sizes and crops are the pipeline's."""

import fractions
import io

import av
import numpy as np
import PIL.Image
import pytest
import simplejpeg
from diffusers.pipelines.i2vgen_xl import pipeline_i2vgen_xl
from transformers import CLIPImageProcessor

from data_pipelines.media import containers, crops, decode, errors, probe
from data_pipelines.media import frames as frames_lib
from tests import media


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
  row = probe.probe(data, 'video')
  assert row['num_frames'] == 10 and row['is_variable_rate']
  times = np.arange(0, 1.08, 0.125)
  frames, _ = decode.decode_video(data, row['first_time'] + times, 48, 64)
  nearest = np.abs(np.array(pts)[:, None] / 1000 - times).argmin(axis=0)
  assert list(nearest) != sorted(set(nearest))  # Frames do repeat in the gaps.
  np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), levels[nearest], atol=2.5)


def test_constant_rate_video_gives_every_other_frame_at_half_the_rate():
  data = encode(np.arange(10, 250, 10), range(0, 24 * 40, 40))
  frames, square = decode.decode_video(data, 0.08 + np.arange(8) / 12.5, 48, 64, 32)
  np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), np.arange(30, 190, 20), atol=2.5)
  assert abs(square.mean() - 30) < 2.5


@pytest.mark.parametrize('name', ['flower.mp4', 'guitar_g03.avi'])
def test_seeking_gives_the_same_frames_as_decoding_from_the_start(name, media_folder, monkeypatch):
  data = (media_folder / 'videos' / name).read_bytes()
  for start in (1.5, 3.21, 7.9):
    times = start + np.arange(8) / 8
    sought, _ = decode.decode_video(data, times, 64, 64)
    monkeypatch.setattr(frames_lib, 'SEEK_AFTER_SECS', 1e9)
    from_start, _ = decode.decode_video(data, times, 64, 64)
    monkeypatch.undo()
    np.testing.assert_array_equal(sought, from_start)


@pytest.mark.parametrize('name', ['flower.mp4', 'guitar_g03.avi'])
def test_the_frames_of_a_file_are_those_rendered_nearest_to_the_times(name, media_folder):
  data, clip = (media_folder / 'videos' / name).read_bytes(), media.CLIPS[name]
  times = np.concatenate([start + np.arange(8) / 8 for start in (0.0, 3.21, 7.9)])
  decoded = [decode.decode_video(data, part, *clip.size)[0] for part in times.reshape(3, 8)]
  shown = media.frame_numbers(clip, np.concatenate(decoded))
  assert np.abs(shown - times * clip.fps).max() < 0.51


def clip_of_noise(options, pts=range(0, 2400, 40), container='mp4', codec='libx264'):
  rng = np.random.default_rng(0)
  levels = [np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))) for _ in pts]
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format=container) as output:
    stream = output.add_stream(codec, rate=25, options=options)
    stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
    if container == 'mp4':
      stream.codec_context.time_base = fractions.Fraction(1, 1000)
    for pixels, time in zip(levels, pts, strict=True):
      frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format='rgb24')
      if container == 'mp4':
        frame.pts, frame.time_base = time, fractions.Fraction(1, 1000)
      output.mux(stream.encode(frame))
    output.mux(stream.encode())
  return buffer.getvalue()


@pytest.mark.parametrize(
  'options',
  [
    {'bf': '3', 'b-pyramid': 'normal', 'g': '20'},
    {'bf': '8', 'x264-params': 'b-adapt=0:open-gop=1', 'g': '12'},
    {'preset': 'veryfast', 'tune': 'zerolatency'},
  ],
  ids=lambda options: '-'.join(options),
)
@pytest.mark.parametrize('variable', [False, True])
def test_skipping_what_nobody_wants_leaves_the_wanted_frames_alone(options, variable, monkeypatch):
  pts = np.arange(60) * 40
  if variable:
    pts = pts + np.random.default_rng(1).integers(0, 39, 60)
  data = clip_of_noise(options, pts.tolist())
  first, last = pts[0] / 1000, pts[-1] / 1000
  decoded = dict(slow_frames(data))
  for start, rate in ((first, 12.5), (0.731, 8), (1.2, 25), (1.61, 5), (last - 0.28, 25)):
    times = start + np.arange(8) / rate
    times = times[times <= last]
    with monkeypatch.context() as patch:
      patch.delattr(frames_lib, '_decode_from')  # The long way is not needed.
      fast, _ = decode.decode_video(data, times, 48, 64)
    for frame, time in zip(fast, times, strict=True):
      distance = min(abs(pts - time) for pts in decoded) + 1e-6
      nearest = [pixels for pts, pixels in decoded.items() if abs(pts - time) <= distance]
      assert any(np.array_equal(frame, pixels) for pixels in nearest)


@pytest.mark.parametrize('container, codec', [('avi', 'mpeg4'), ('avi', 'libx264')])
def test_packets_without_times_are_decoded_the_long_way(container, codec):
  data = clip_of_noise({'bf': '2', 'g': '20'}, container=container, codec=codec)
  decoded = dict(slow_frames(data))
  times = sorted(decoded)
  frames, _ = decode.decode_video(data, np.array(times[20:40:3]), 48, 64)
  np.testing.assert_array_equal(frames, [decoded[time] for time in times[20:40:3]])


def slow_frames(data):
  convert = decode.Converter()
  with containers.open_video(data) as video:
    for frame in frames_lib.decode_all(video):
      yield frame.time, np.array(convert(frame, 48, 64))


def test_a_frame_may_be_wanted_by_no_view_and_then_by_one():
  data = encode(np.arange(10, 90, 10), range(0, 320, 40))
  pixels = np.zeros((1, 24, 32, 3), np.uint8)
  decode.decode_video_into([decode.View(pixels, [1])], data, [0.08, 0.081])
  assert abs(pixels.mean() - 30) < 2.5


def test_a_time_after_the_end_is_an_error_and_not_a_padded_frame():
  data = encode(np.arange(10, 90, 10), range(0, 320, 40))
  decode.decode_video(data, np.array([0.28, 0.299]), 48, 64)
  with pytest.raises(errors.DecodeError, match='ends at 0.280 s'):
    decode.decode_video(data, np.array([0.0, 0.4]), 48, 64)


def test_wide_pixels_are_made_square():
  data = encode([50] * 4, range(0, 160, 40), aspect=fractions.Fraction(2, 1))
  row = probe.probe(data, 'video')
  assert (row['height'], row['width']) == (48, 128)
  wide = np.zeros((48, 64, 3), np.uint8)
  wide[:, 16:48] = 200  # As stored; with square pixels it is 64 of 128 wide.
  data = encode([wide] * 4, range(0, 160, 40), aspect=fractions.Fraction(2, 1))
  frames, square = decode.decode_video(data, np.array([0.0]), 48, 128, 48)
  assert (frames[0, 24, 34:94] > 150).all() and (
    frames[0, 24, [*range(30), *range(98, 128)]] < 50
  ).all()
  assert (square > 150).all()


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_rotated_video_is_upright(rotation):
  pixels = np.zeros((48, 64, 3), np.uint8)
  pixels[:16, :16] = 255  # Top left as stored.
  data = encode([pixels] * 4, range(0, 160, 40), rotation=rotation)
  upright = np.rot90(pixels, rotation // 90)
  row = probe.probe(data, 'video')
  assert (row['height'], row['width']) == upright.shape[:2]
  frames, square = decode.decode_video(data, np.array([0.0]), *upright.shape[:2], 48)
  assert np.abs(frames[0].astype(int) - upright).mean() < 6
  expected = crops.center_crop(upright, 48, 48)
  assert np.abs(square.astype(int) - expected).mean() < 6


def test_colours_survive_scaling_without_bias():
  rng = np.random.default_rng(0)
  pixels = np.kron(rng.integers(40, 215, (6, 8, 3)), np.ones((16, 16, 1))).astype(np.uint8)
  data = encode([pixels] * 3, [0, 40, 80], (96, 128))
  frames, square = decode.decode_video(data, [0.0], 48, 64, 96)
  boxed = crops.center_crop_resize(PIL.Image.fromarray(pixels), 48, 64)
  for decoded, expected in ((frames[0], boxed), (square, pixels[:, 16:112])):
    error = np.asarray(decoded).astype(float) - np.asarray(expected)
    assert abs(error.mean()) < 0.4 and np.abs(error).mean() < 4


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK'])
def test_images_of_all_modes_become_rgb(mode):
  buffer = io.BytesIO()
  image = PIL.Image.new('RGB', (20, 10), (200, 30, 40)).convert(mode)
  image.save(buffer, 'tiff' if mode == 'CMYK' else 'png')
  decoded = decode.decode_image(buffer.getvalue())
  assert decoded.mode == 'RGB' and decoded.size == (20, 10)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_fast_jpeg_is_upright_and_equals_pillow_to_the_bit(orientation):
  image = PIL.Image.fromarray(media.photograph('truck.jpg')).resize((90, 60))
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  image.save(buffer, 'jpeg', exif=exif)
  theirs = PIL.ImageOps.exif_transpose(PIL.Image.open(buffer)).convert('RGB')
  np.testing.assert_array_equal(decode.decode_image(buffer.getvalue()), theirs)


@pytest.mark.parametrize('orientation', [1, 6])
def test_a_jpeg_may_come_smaller_but_not_below_what_is_asked(orientation):
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  buffer = io.BytesIO()
  PIL.Image.new('RGB', (300, 160)).save(buffer, 'jpeg', exif=exif)
  for least, size in (((70, 100), (150, 80)), ((81, 100), (300, 160)), ((0, 0), (300, 160))):
    found = decode.decode_image(buffer.getvalue(), *(least if orientation == 1 else least[::-1]))
    assert found.size == (size if orientation == 1 else size[::-1])


@pytest.mark.parametrize('name', media.PHOTOGRAPHS)
def test_images_of_a_batch_are_vgens_to_two_of_255(name, media_folder):
  data = (media_folder / 'images' / name).read_bytes()
  pixels, square = np.empty((256, 448, 3), np.uint8), np.empty((224, 224, 3), np.uint8)
  views = decode.View(pixels[None], (0,)), decode.View(square[None], (0,), is_square=True)
  decode.decode_image_into(views, data)
  whole = decode.decode_image(data)
  assert mean_difference(whole, media.photograph(name)) < 6
  exact = crops.center_crop_resize(whole, 256, 448)
  # Decoded at half the size if 1.4 times the target is left; else the same to the bit.
  limit = 2.5 if min(whole.height / 256, whole.width / 448) >= 2.8 else 0.01
  assert mean_difference(pixels, exact) < limit
  assert mean_difference(square, crops.clip_square(whole, 448, 224)) < 3.3


def test_a_truncated_jpeg_is_an_error_and_trailing_bytes_are_not(media_folder):
  data = (media_folder / 'images' / 'truck.jpg').read_bytes()
  with pytest.raises(errors.DecodeError, match='image'):
    decode.decode_image(data[: len(data) // 2])
  np.testing.assert_array_equal(decode.decode_image(data + b'more'), simplejpeg.decode_jpeg(data))


def mean_difference(image, other):
  return np.abs(np.asarray(image).astype(float) - np.asarray(other)).mean()


def test_squares_for_clip_are_as_near_to_its_processor_as_vgens(media_folder):
  """One filter instead of two. 596 x 336 is an odd number of pixels wide when scaled, and the
  processor then cuts half a pixel beside the centre."""
  processor = CLIPImageProcessor(do_rescale=False, do_normalize=False)
  squares = {}
  for name in media.CLIPS:
    data = (media_folder / 'videos' / name).read_bytes()
    first = next(av.open(io.BytesIO(data)).decode(video=0))
    image = first.to_image(interpolation=int(decode.INTERPOLATION))
    squares[name] = image, decode.decode_video(data, [first.time], 256, 448, 224)[1]
  for name in media.PHOTOGRAPHS:
    image = decode.decode_image((media_folder / 'images' / name).read_bytes())
    squares[name] = image, crops.central_square(image, 224)
  assert len(squares) == 9
  for name, (image, square) in squares.items():
    vgens = crops.clip_square(image, 448, 224)
    theirs = processor(image, return_tensors='np')['pixel_values'][0].transpose(1, 2, 0)
    assert mean_difference(square, theirs) < mean_difference(vgens, theirs), name
    assert mean_difference(square, vgens) < 3.3, name


SIZES = [(596, 336), (320, 240), (256, 256), (1024, 1024), (777, 333), (96, 96), (1280, 853)]
SIZES += [tuple(size) for size in np.random.default_rng(0).integers(64, 1500, (20, 2)).tolist()]


@pytest.mark.parametrize('source', SIZES, ids=str)
def test_crops_equal_diffusers_but_for_its_missing_pixel(source):
  rng = np.random.default_rng(sum(source))
  pixels = rng.integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
  image = PIL.Image.fromarray(pixels)
  for height, width in ((256, 448), (704, 1280), (64, 64)):
    ours = crops.center_crop_resize(image, height, width)
    assert ours.size == (width, height)
    scale = min(source[0] / width, source[1] / height)
    if source[0] // scale < width or source[1] // scale < height:
      continue  # There diffusers pads a black row or column.
    theirs = pipeline_i2vgen_xl._center_crop_wide(image, (width, height))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
  for width in (448, 64):
    ours = crops.clip_square(image, width, 224)
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
    assert np.asarray(crops.center_crop_resize(image, height, width)).min() == 255
  assert np.asarray(crops.clip_square(image, 448, 224)).min() == 255


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('size', [(1, 60_001), (2, 60_000), (3, 40_001)])
def test_a_hair_thin_picture_shows_its_centre_and_is_not_enlarged_whole(size, turned):
  levels = np.linspace(-2000, 2255, size[1]).clip(0, 255).astype(np.uint8)
  pixels = np.repeat(np.repeat(levels[None], size[0], 0)[..., None], 3, 2)
  image = PIL.Image.fromarray(np.ascontiguousarray(pixels.swapaxes(0, 1) if turned else pixels))
  height, width = (448, 256) if turned else (256, 448)
  assert np.prod(crops.scaled_size(*image.size[::-1], height, width)) > crops.MAX_SCALED_PIXELS
  scaled = crops.cover(image, height, width)
  assert scaled.width * scaled.height < 1e6
  cut = np.asarray(crops.center_crop_resize(image, height, width))
  assert cut.shape == (height, width, 3)
  np.testing.assert_allclose(cut.mean(), 127.5, atol=2)


def test_scaled_sizes_always_cover_the_target():
  short = 0
  for source in SIZES + np.random.default_rng(1).integers(8, 4000, (2000, 2)).tolist():
    height, width = crops.scaled_size(source[1], source[0], 720, 1280)
    assert height >= 720 and width >= 1280 and (height == 720 or width == 1280)
    scale = min(source[0] / 1280, source[1] / 720)
    short += source[0] // scale < 1280 or source[1] // scale < 720
  assert short  # The case that is repaired does occur.
