"""Videos of every kind that people have: what training sees is what was filmed, upright, in its
colours, at its time; or it is refused by name. Right are what was drawn and ffmpeg's own decode.
"""

import fractions
import functools
import struct
import subprocess

import cv2
import numpy as np
import pytest

from data_pipelines.media import decode, errors, probe
from tests.media_kinds import clips, shown, test_hdr

# Name: (arguments of clips.encode, how far off colours may be).
CONTAINERS = {
  'h264.mp4': (dict(options=clips.H264), 3),
  'h264.mov': (dict(container='mov', options=clips.H264), 3),
  'h264.mkv': (dict(container='matroska', options=clips.H264), 3),
  'h264.ts': (dict(container='mpegts', options=clips.H264), 3),
  'h264.avi': (dict(container='avi', options=dict(clips.H264, bf='0')), 3),
  'h264.flv': (dict(container='flv', options=clips.H264), 3),
  'h264_fragmented.mp4': (
    dict(options=clips.H264, muxing={'movflags': 'frag_keyframe+empty_moov'}), 3,
  ),
  'h264.3gp': (dict(container='3gp', options=clips.H264), 3),
  'hevc.mp4': (dict(codec='libx265', options=clips.X265), 3),
  'hevc.mkv': (dict(codec='libx265', container='matroska', options=clips.X265), 3),
  'vp8.webm': (dict(codec='libvpx', container='webm', options=dict(clips.VP9, b='2M')), 4),
  'vp9.webm': (dict(codec='libvpx-vp9', container='webm', options=clips.VP9), 3),
  'vp9.mp4': (dict(codec='libvpx-vp9', options=clips.VP9), 3),
  'vp9.ivf': (dict(codec='libvpx-vp9', container='ivf', options=clips.VP9), 3),
  'av1.mp4': (dict(codec='libsvtav1', options=clips.AV1), 3),
  'av1.webm': (dict(codec='libsvtav1', container='webm', options=clips.AV1), 3),
  'mpeg4.mp4': (dict(codec='mpeg4', options=clips.FINE), 3),
  'mpeg4.avi': (dict(codec='mpeg4', container='avi', options=clips.FINE), 3),
  'mpeg2.mpg': (dict(codec='mpeg2video', container='mpeg', options=clips.FINE, rate=25), 3),
  'mpeg2.ts': (dict(codec='mpeg2video', container='mpegts', options=clips.FINE, rate=25), 3),
  'mpeg2.mxf': (dict(codec='mpeg2video', container='mxf', options=clips.FINE, rate=25), 3),
  'mpeg1.mpg': (dict(codec='mpeg1video', container='mpeg', options=clips.FINE, rate=25), 3),
  'wmv2.wmv': (dict(codec='wmv2', container='asf', options=dict(clips.FINE, bf='0')), 3),
  'flv1.flv': (dict(codec='flv', container='flv', options=dict(clips.FINE, bf='0')), 3),
  'prores.mov': (dict(codec='prores_ks', container='mov', pix_fmt='yuv422p10le'), 2),
  'mjpeg.avi': (dict(codec='mjpeg', container='avi', pix_fmt='yuvj420p', color_range=2,
                     options={'q': '2', 'qmin': '1', 'qmax': '2'}), 3),
  'ffv1.mkv': (dict(codec='ffv1', container='matroska'), 2),
  'huffyuv.avi': (dict(codec='huffyuv', container='avi', pix_fmt='yuv422p'), 2),
  'png.mov': (dict(codec='png', container='mov', pix_fmt='rgb24'), 0),
  'qtrle.mov': (dict(codec='qtrle', container='mov', pix_fmt='rgb24'), 0),
  'raw.nut': (dict(codec='rawvideo', container='nut'), 2),
  'raw.y4m': (dict(codec='rawvideo', container='yuv4mpegpipe'), 2),
  # Of these the container does not say when frames are shown.
  'h264_b.avi': (dict(container='avi', options=clips.H264), 3),
  'h264.wmv': (dict(container='asf', options=clips.H264), 3),
  'h264.vob': (dict(container='vob', options=dict(clips.H264, g='9'), rate=25), 3),
  'h264.mxf': (dict(container='mxf', options=clips.H264, rate=25), 3),
  'h264.h264': (dict(container='h264', options=clips.H264), 3),
  'hevc.hevc': (dict(codec='libx265', container='hevc', options=clips.X265), 3),
  'mpeg2.wmv': (dict(codec='mpeg2video', container='asf', options=clips.FINE, rate=25), 3),
  'mpeg2.m2v': (dict(codec='mpeg2video', container='mpeg2video', options=clips.FINE, rate=25), 3),
  'gif.gif': (dict(), 0),
  'apng.apng': (dict(codec='apng', container='apng', pix_fmt='rgb24', rate=10), 0),
}  # fmt: skip


@functools.cache
def clip(name):
  return clips.animated_gif() if name == 'gif.gif' else clips.encode(**CONTAINERS[name][0])


@pytest.mark.parametrize('name', CONTAINERS)
def test_every_container_and_codec_shows_the_drawn_frames_in_their_order(name):
  row, frames, times = shown.whole(clip(name))
  assert (row['height'], row['width'], row['num_frames']) == (clips.HEIGHT, clips.WIDTH, 12)
  assert [clips.number(frame) for frame in frames] == list(range(12))
  shown.assert_upright(frames, CONTAINERS[name][1])
  assert row['hdr'] == '' and not row['is_interlaced'] and not row['is_truncated']
  assert row['longest_gap'] == pytest.approx(1 / row['fps'], abs=2e-3)
  assert np.diff(times).min() > 0


@shown.needs_ffmpeg
@pytest.mark.parametrize('name', [name for name in CONTAINERS if name != 'vp9.ivf'])
def test_every_container_and_codec_is_ffmpegs_decode_to_2_of_255(name):
  _, frames, _ = shown.whole(clip(name))
  is_left = name.startswith(('h264', 'hevc', 'mpeg4', 'mpeg2'))
  chroma = 'left' if is_left else 'auto'  # As those decoders say of their frames, others nothing.
  expected = clips.ffmpeg_decode(clip(name), *frames.shape[1:3], chroma=chroma)
  assert np.abs(frames.astype(int) - expected[: len(frames)]).max() <= 2


ORIENTATIONS = [
  (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
  (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0),
]  # fmt: skip


@pytest.mark.parametrize('container', ['mp4', 'mov', 'matroska'])
@pytest.mark.parametrize('display', ORIENTATIONS, ids=str)
def test_all_eight_orientations_are_upright(display, container):
  row, frames, _ = shown.whole(clips.turned(display, container=container))
  assert (row['height'], row['width']) == (clips.HEIGHT, clips.WIDTH)
  shown.assert_upright(frames)
  assert [clips.number(frame) for frame in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize('display', ORIENTATIONS, ids=str)
def test_squares_for_clip_are_upright_too(display):
  _, square = decode.decode_video(clips.turned(display), [0.0], clips.HEIGHT, clips.WIDTH, 48)
  middle = clips.picture()[:, 16:80]
  expected = cv2.resize(middle, (48, 48), interpolation=cv2.INTER_AREA)
  assert np.abs(square.astype(int) - expected).mean() < 6


@shown.needs_ffmpeg
@pytest.mark.parametrize('display', ORIENTATIONS, ids=str)
def test_orientations_are_ffmpegs(display):
  data = clips.turned(display)
  _, frames, _ = shown.whole(data)
  expected = clips.ffmpeg_decode(data, clips.HEIGHT, clips.WIDTH)
  # Where the colour changes, ffmpeg turns the coarser chroma before it is scaled up.
  assert np.median(np.abs(frames.astype(int) - expected)) == 0
  assert np.abs(clips.quadrants(frames[0]) - clips.quadrants(expected[0])).max() <= 2


def test_a_tilted_picture_is_refused_by_name_and_a_slight_one_is_not():
  cosine, sine = round(65536 * np.cos(0.5)), round(65536 * np.sin(0.5))
  for values, reason in (
    ((cosine, sine, -sine, cosine), 'tilted'),
    ((65536, 300, -300, 65536), ''),
  ):
    data = clips.encode(pictures=4, options=clips.H264, display=(1, 0, 0, -1))
    marker = b'\x00\x01\x00\x00' + bytes(12) + b'\xff\xff\x00\x00'  # a, b, u, c, d of the track.
    place = data.index(marker)
    a, b, c, d = (value.to_bytes(4, 'big', signed=True) for value in values)
    data = data[:place] + a + b + bytes(4) + c + d + data[place + 20 :]
    if reason:
      with pytest.raises(errors.DecodeError, match=reason):
        probe.probe(data, 'video')
    else:
      shown.assert_upright(shown.whole(data)[1])


COLOURS = {
  f'{pix_fmt} matrix {matrix} range {color_range}': dict(
    pix_fmt=pix_fmt, matrix=matrix, color_range=color_range, options=clips.H264
  )
  for pix_fmt, matrix, color_range in [
    ('yuv420p', 5, 1), ('yuv420p', 1, 1), ('yuv420p', 1, 2), ('yuv420p', 5, 2), ('yuv420p', 9, 1),
    ('yuv420p', 7, 1), ('yuv422p', 1, 1), ('yuv444p', 1, 1), ('yuv444p', 6, 2),
    ('yuv420p10le', 1, 1), ('yuv422p10le', 1, 1), ('yuv444p10le', 9, 2),
  ]
}  # fmt: skip
COLOURS['gbrp'] = dict(codec='libx264rgb', pix_fmt='rgb24', options={'crf': '0'}, tags=False)
COLOURS['untagged is BT.601'] = dict(tags=False, options=clips.H264)


@pytest.mark.parametrize('name', COLOURS)
def test_colours_of_all_matrices_and_ranges_come_out_as_drawn(name):
  shown.assert_upright(shown.whole(clips.encode(pictures=3, **COLOURS[name]))[1], tolerance=4)


SIZES = {
  'odd': dict(codec='ffv1', container='matroska', pix_fmt='yuv444p',
              pictures=[clips.picture(n, 63, 95) for n in range(3)]),
  'tiny': dict(pictures=[clips.picture(n, 16, 24) for n in range(3)], options=clips.H264),
  'wide': dict(pictures=[clips.picture(n, 32, 320) for n in range(3)], options=clips.H264),
}  # fmt: skip


@pytest.mark.parametrize('name', SIZES)
def test_odd_tiny_and_wide_frames(name):
  data = clips.encode(**SIZES[name])
  row, frames, _ = shown.whole(data)
  assert frames.shape[1:3] == SIZES[name]['pictures'][0].shape[:2]
  shown.assert_upright(frames, 8 if name == 'tiny' else 3)


@pytest.mark.parametrize(
  'aspect, size', [((2, 1), (64, 192)), ((1, 2), (64, 48)), ((16, 15), (64, 102))]
)
@pytest.mark.parametrize('container', ['mp4', 'matroska', 'mpegts'])
def test_pixels_that_are_not_square_become_so(aspect, size, container):
  options = dict(container=container, aspect=fractions.Fraction(*aspect), options=clips.H264)
  row, frames, _ = shown.whole(clips.encode(pictures=4, **options))
  assert (row['height'], row['width']) == size
  shown.assert_upright(frames)


def test_pixels_that_only_the_codec_calls_wide_become_square():
  data = clips.encode(pictures=4, aspect=fractions.Fraction(2, 1), options=clips.H264)
  assert data.count(b'pasp') == data.count(b'tkhd') == 1
  shown_size = data.index(b'tkhd') + 80  # Width and height, 16.16 bits each, end the box.
  stored_size = struct.pack('>II', clips.WIDTH << 16, clips.HEIGHT << 16)
  data = data[:shown_size] + stored_size + data[shown_size + 8 :]
  row, frames, _ = shown.whole(data.replace(b'pasp', b'free'))
  assert (row['height'], row['width']) == (clips.HEIGHT, 2 * clips.WIDTH)
  shown.assert_upright(frames)


def test_wide_pixels_that_are_turned_become_tall():
  data = clips.turned((0, -1, 1, 0), aspect=fractions.Fraction(2, 1))
  row, frames, _ = shown.whole(data)
  assert (row['height'], row['width']) == (2 * clips.HEIGHT, clips.WIDTH)
  shown.assert_upright(frames)


@shown.needs_ffmpeg
@pytest.mark.parametrize('display', [None, (0, -1, 1, 0)], ids=str)
@pytest.mark.parametrize('clap', [(80, 40, 4, -6), (96, 62, 0, -1), (81, 41, 3, 3)], ids=str)
def test_what_a_container_crops_is_not_shown(clap, display, tmp_path):
  """Width, height, and the centre's place beside the frame's: all is as ffmpeg shows it."""
  data = clips.encode('libx265', pictures=4, options=clips.X265, display=display)
  box = struct.pack('>8i', *(number for value in clap for number in (value, 1)))
  data = test_hdr.insert_box(data, b'hvcC', b'clap', box)
  (tmp_path / 'clap.mp4').write_bytes(data)
  command = [clips.ffmpeg_path(), '-v', 'error', '-i', tmp_path / 'clap.mp4', '-c', 'copy']
  subprocess.run([*command, tmp_path / 'clap.mkv'], check=True)
  for name in ('clap.mp4', 'clap.mkv'):
    data = (tmp_path / name).read_bytes()
    row, frames, _ = shown.whole(data)
    width, height = clap[0] // 2 * 2, clap[1] // 2 * 2  # Chroma is as coarse.
    assert (row['height'], row['width']) == ((height, width) if not display else (width, height))
    theirs = clips.ffmpeg_decode(data, row['height'], row['width'])
    difference = np.abs(frames.astype(int) - theirs)
    assert np.median(difference) <= 1 and (display or difference.max() <= 2)


@pytest.mark.parametrize('clap', [(96, 64, 0, 0), (200, 64, 0, 0), (80, 40, 60, 0)], ids=str)
def test_a_crop_of_nothing_or_of_what_is_not_there_leaves_the_frame_whole(clap):
  data = clips.encode('libx265', pictures=4, options=clips.X265)
  box = struct.pack('>8i', *(number for value in clap for number in (value, 1)))
  row, _, _ = shown.whole(test_hdr.insert_box(data, b'hvcC', b'clap', box))
  assert (row['height'], row['width']) == (64, 96)


def test_gaps_of_a_variable_rate_are_measured():
  pts = [0, 40, 80, 120, 160, 2660, 2700, 2740]
  row, frames, times = shown.whole(
    clips.encode(pictures=8, pts=pts, rate=25, options=dict(clips.H264, bf='0'))
  )
  assert row['longest_gap'] == pytest.approx(2.5, abs=2e-3) and row['is_variable_rate']
  assert times == pytest.approx([value / 1000 for value in pts], abs=1e-3)


BEFORE_ZERO = {  # (first time that is written, first time that is told).
  'matroska': (-250, -0.25), 'mp4': (0, 0.0), 'mov': (1500, 1.5), 'mpegts': (1500, 1.5),
}  # fmt: skip


@pytest.mark.parametrize('container', BEFORE_ZERO)
def test_frames_before_time_zero_keep_their_order_and_distance(container):
  start, first_time = BEFORE_ZERO[container]
  pts = [start + 40 * k for k in range(12)]
  data = clips.encode(
    container=container, pts=pts, rate=25, options=clips.H264, muxing={'avoid_negative_ts': '0'}
  )
  row, frames, times = shown.whole(data)
  assert [clips.number(frame) for frame in frames] == list(range(12))
  assert np.diff(times) == pytest.approx(0.04, abs=2e-3)
  assert row['first_time'] == pytest.approx(first_time, abs=2e-3)


def smooth(rng, height, width):
  """Colours that change slowly: the half pixel by which ffmpeg moves chroma is nothing."""
  coarse = rng.integers(100, 155, (2, 2, 3)).astype(np.float32)
  return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


@shown.needs_ffmpeg
@pytest.mark.parametrize('seed', range(12))
def test_any_rotation_format_range_matrix_and_container_equals_ffmpegs_rgb(seed):
  rng = np.random.default_rng(seed)
  display = ORIENTATIONS[seed % 8]
  options = dict(
    container=['mp4', 'mov', 'matroska'][rng.integers(3)],
    pix_fmt=['yuv420p', 'yuv422p', 'yuv444p', 'yuv420p10le'][rng.integers(4)],
    color_range=int(rng.integers(1, 3)),
    matrix=[1, 5, 6, 7, 9][rng.integers(5)],
  )
  pictures = [clips.stored(smooth(rng, clips.HEIGHT, clips.WIDTH), display) for _ in range(3)]
  data = clips.encode(pictures=pictures, display=display, options=clips.H264, **options)
  _, frames, _ = shown.whole(data)
  expected = clips.ffmpeg_decode(data, clips.HEIGHT, clips.WIDTH)
  assert np.abs(frames.astype(int) - expected).max() <= 2, options
