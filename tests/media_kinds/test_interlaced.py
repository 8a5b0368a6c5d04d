"""Interlaced videos: refused by name, or deinterlaced as ffmpeg does, wherever a window begins."""

import numpy as np
import pytest

from data_pipelines.media import decode, errors, probe
from tests.media_kinds import clips, shown

FIELDS = {
  'h264.mp4': dict(options=dict(clips.H264, **{'x264-params': 'tff=1'})),
  'mpeg2.ts': dict(codec='mpeg2video', container='mpegts', options=clips.FINE, rate=25),
  'mpeg2_bottom.mpg': dict(
    codec='mpeg2video', container='mpeg', options=clips.FINE, rate=25, fields='bff'
  ),
  'mpeg4.avi': dict(codec='mpeg4', container='avi', options=dict(clips.FINE, bf='0')),
  'prores.mov': dict(codec='prores_ks', container='mov', pix_fmt='yuv422p10le'),
  'ffv1.mkv': dict(codec='ffv1', container='matroska'),
  'ffv1.avi': dict(codec='ffv1', container='avi'),
  'v210.mov': dict(codec='v210', container='mov', pix_fmt='yuv422p10le'),
}  # fmt: skip


def interlaced(name, count=12):
  options = dict(fields='tff', pictures=clips.fields_of_a_bar(count)) | FIELDS[name]
  return clips.encode(**options)


@pytest.mark.parametrize('name', FIELDS)
def test_interlaced_videos_are_refused_by_name_or_deinterlaced(name):
  data = interlaced(name)
  with pytest.raises(errors.DecodeError, match='^interlaced: .*--interlaced=deinterlace'):
    probe.probe(data, 'video')
  row, frames, times = shown.whole(data)
  assert row['is_interlaced'] and len(frames) == 12 and len(set(times)) == 12
  assert np.mean([clips.combing(frame) for frame in clips.fields_of_a_bar()]) > 5
  assert max(clips.combing(frame) for frame in frames) < 1


@shown.needs_ffmpeg
@pytest.mark.parametrize('name', ['h264.mp4', 'mpeg2.ts', 'ffv1.mkv'])
def test_deinterlaced_frames_are_ffmpegs_bwdif(name):
  data = interlaced(name)
  _, frames, _ = shown.whole(data)
  chroma = 'left' if name != 'ffv1.mkv' else 'auto'
  filters = 'bwdif=mode=send_frame:deint=interlaced'
  expected = clips.ffmpeg_decode(data, clips.HEIGHT, clips.WIDTH, filters, chroma)
  assert np.abs(frames.astype(int) - expected).max() <= 2


def test_windows_deep_in_an_interlaced_clip_equal_a_whole_decode():
  data = clips.encode(
    codec='mpeg2video', container='matroska', options=dict(clips.FINE, g='10'), rate=25,
    fields='tff', pictures=clips.fields_of_a_bar(120),
  )  # fmt: skip
  _, frames, times = shown.whole(data)
  for start in (30, 57, 60, 100):
    part, _ = decode.decode_video(data, times[start : start + 8], *frames.shape[1:3])
    np.testing.assert_array_equal(part, frames[start : start + 8])
