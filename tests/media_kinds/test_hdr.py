"""HDR, by its transfer function: refused by name, or tone-mapped to the colours that were meant."""

import subprocess

import numpy as np
import pytest

from data_pipelines.media import errors, probe, tone_map
from tests.media_kinds import clips, shown

# Linear BT.709 to BT.2020 (ITU-R BT.2087-0, table 2).
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def as_pq(pixels):
  """The pixels at 203 nits of white as PQ in BT.2020: uint16 of the whole range (SMPTE ST 2084)."""
  power = (203 / 10000 * (pixels / 255) ** 2.4 @ TO_BT2020.T) ** (2610 / 16384)
  signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
  return np.rint(65535 * signal).astype(np.uint16), 'rgb48le'


def as_hlg(pixels):
  """The same as HLG on a screen of 1,000 nits (ITU-R BT.2100-2, table 5)."""
  shown = 203 / 1000 * (pixels / 255) ** 2.4 @ TO_BT2020.T
  luminance = shown @ [[0.2627], [0.6780], [0.0593]]
  scene = shown / np.maximum(luminance, 1e-9) ** (0.2 / 1.2)
  logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
  signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)
  return np.rint(65535 * np.clip(signal, 0, 1)).astype(np.uint16), 'rgb48le'


def hdr(kind='pq', codec='libx265', container='mp4', options=None, number=4, **more):
  transfer = {'pq': 16, 'hlg': 18}[kind]
  if codec == 'libx265':
    tags = f'colorprim=9:transfer={transfer}:colormatrix=9:range=limited'
    options = dict(clips.X265, **{'x265-params': f'{clips.X265["x265-params"]}:{tags}'})
  more = dict(pix_fmt='yuv420p10le', pictures=number) | more
  return clips.encode(
    codec, container, options=options, matrix=9, color_range=1, transfer=transfer, primaries=9,
    prepare=as_pq if kind == 'pq' else as_hlg, **more,
  )  # fmt: skip


HDR = {
  'hevc_pq.mp4': dict(),
  'hevc_hlg.mp4': dict(kind='hlg'),
  'hevc_pq.mkv': dict(container='matroska'),
  'h264_pq.mp4': dict(codec='libx264', options=clips.H264),
  'h264_hlg.ts': dict(kind='hlg', codec='libx264', container='mpegts', options=clips.H264),
  'vp9_pq.webm': dict(codec='libvpx-vp9', container='webm', pix_fmt='yuv420p', options=clips.VP9),
  'vp9_hlg.mp4': dict(kind='hlg', codec='libvpx-vp9', pix_fmt='yuv420p', options=clips.VP9),
  'av1_pq.mp4': dict(
    codec='libsvtav1', options=clips.AV1 | {
      'svtav1-params': 'lp=1:color-primaries=9:transfer-characteristics=16:matrix-coefficients=9'
    },
  ),
  'prores_pq.mov': dict(codec='prores_ks', container='mov', pix_fmt='yuv422p10le'),
  'ffv1_hlg.mkv': dict(kind='hlg', codec='ffv1', container='matroska', pix_fmt='yuv444p10le'),
}  # fmt: skip


@pytest.mark.parametrize('name', HDR)
def test_hdr_is_refused_by_its_transfer_or_tone_mapped_to_the_colours_of_sdr(name):
  data = hdr(**HDR[name])
  with pytest.raises(errors.DecodeError, match='^hdr: .*--hdr=tonemap'):
    probe.probe(data, 'video')
  row, frames, _ = shown.whole(data)
  assert row['hdr'] == HDR[name].get('kind', 'pq')
  shown.assert_upright(frames, 5 if 'vp9' not in name else 9)  # That one has 8 bits.
  assert [clips.number(frame) for frame in frames] == [0, 1, 2, 3]


def test_hdr_that_only_the_container_tells_is_seen():
  """HEVC may come without its own description of colours, with one in the mp4's `colr`."""
  tags = {'x265-params': clips.X265['x265-params'] + ':colorprim=2:transfer=2:colormatrix=2'}
  data = clips.encode(
    'libx265', pix_fmt='yuv420p10le', options=dict(clips.X265, **tags), pictures=3, matrix=9,
    color_range=1, tags=False, prepare=as_pq,
  )  # fmt: skip
  assert shown.whole(data)[0]['hdr'] == ''
  box = b'nclx' + b''.join(n.to_bytes(2, 'big') for n in (9, 16, 9)) + b'\x00'
  data = insert_box(data, b'hvcC', b'colr', box)
  row, frames, _ = shown.whole(data)
  assert row['hdr'] == 'pq'
  shown.assert_upright(frames, 5)


def insert_box(data, beside, name, content):
  """An mp4, its index last, with one more box in front of the one called `beside`."""
  box = (8 + len(content)).to_bytes(4, 'big') + name + content
  place = data.index(beside) - 4
  grown = bytearray(data[:place] + box + data[place:])
  path = [b'moov', b'trak', b'mdia', b'minf', b'stbl', b'stsd', b'hvc1', b'hev1', b'avc1']
  for parent in path:
    at = data.find(parent)
    if 0 <= at < place:
      size = int.from_bytes(data[at - 4 : at], 'big') + len(box)
      grown[at - 4 : at] = size.to_bytes(4, 'big')
  return bytes(grown)


@shown.needs_ffmpeg
def test_dolby_vision_without_a_picture_for_other_screens_is_refused_by_name(tmp_path):
  """Profile 5: its base is in colours of its own; that of profile 8 is HDR10, HLG or SDR."""
  tags = {'x265-params': clips.X265['x265-params'] + ':colorprim=2:transfer=2:colormatrix=2'}
  options = dict(clips.X265, **tags)
  data = clips.encode('libx265', pix_fmt='yuv420p10le', options=options, pictures=3, tags=False)
  for profile, fallback in ((5, 0), (8, 1), (8, 4)):
    record = bytes([1, 0, profile << 1, 0b101, fallback << 4]) + bytes(19)
    name = tmp_path / f'{profile}.mp4'
    name.write_bytes(insert_box(data, b'hvcC', b'dvcC' if profile < 8 else b'dvvC', record))
    command = [clips.ffmpeg_path(), '-v', 'error', '-y', '-i', name, '-c', 'copy', '-strict', '-2']
    subprocess.run([*command, name.with_suffix('.mkv')], check=True)
    for file in (name, name.with_suffix('.mkv')):
      if fallback:
        assert probe.probe(file.read_bytes(), 'video')['hdr'] == ''
        continue
      with pytest.raises(errors.DecodeError, match='^hdr: Dolby Vision of profile 5'):
        probe.probe(file.read_bytes(), 'video', probe.SPECIAL)


def test_turned_hdr_is_upright():
  display = (0, 1, 1, 0)
  pictures = [clips.stored(clips.picture(number), display) for number in range(3)]
  data = hdr(codec='libx264', options=clips.H264, pictures=pictures, display=display)
  row, frames, _ = shown.whole(data)
  assert (row['height'], row['width']) == (clips.HEIGHT, clips.WIDTH)
  shown.assert_upright(frames, 5)


@shown.needs_ffmpeg
@pytest.mark.parametrize('kind', ['pq', 'hlg'])
def test_below_the_knee_tone_mapping_is_that_of_ffmpegs_zscale(kind):
  data = hdr(kind, 'ffv1', 'matroska', pix_fmt='yuv444p10le')
  _, frames, _ = shown.whole(data)
  source = {'pq': 'smpte2084', 'hlg': 'arib-std-b67'}[kind]
  filters = (
    f'zscale=agamma=false:tin={source}:min=2020_ncl:pin=2020:rin=tv:t=linear:npl=203,format=gbrpf32le,'
    'zscale=p=709:t=709:m=gbr:r=pc,format=gbrp'
  )
  expected = clips.ffmpeg_decode(data, clips.HEIGHT, clips.WIDTH, filters, chroma='auto')
  for found, theirs in zip(frames, expected, strict=True):
    assert np.abs(clips.quadrants(found) - clips.quadrants(theirs)).max() <= 2


def test_what_is_brighter_than_white_keeps_its_order_and_its_hue():
  nits = np.array([50, 92, 203, 400, 1000, 4000])[:, None] * [1, 1, 1]
  signal = np.rint(65535 * tone_map._nits_to_pq(nits)).astype(np.uint16)[None]
  grey = tone_map.to_sdr(signal, 'pq', 9)[0]
  assert (np.diff(grey[:5, 1].astype(int)) > 0).all() and grey[4, 1] == 255 == grey[5, 1]
  assert np.ptp(grey, axis=1).max() <= 1
  expected = 255 * (np.array([50, 92]) / 203) ** (1 / 2.4)
  np.testing.assert_allclose(grey[:2, 1], expected, atol=1)
