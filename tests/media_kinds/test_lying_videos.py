"""Files that name other files, or are not what their header says: refused by name, unopened."""

import os
import socket

import pytest

from data_pipelines.media import containers, decode, errors, probe
from data_pipelines.media import frames as frames_lib
from tests.media_kinds import clips, test_streams


def test_files_that_name_other_files_or_addresses_are_refused_unopened(tmp_path):
  other = tmp_path / 'other.mp4'
  other.write_bytes(clips.encode(pictures=3))
  with socket.socket() as server:
    server.bind(('127.0.0.1', 0))
    server.listen()
    address = f'http://127.0.0.1:{server.getsockname()[1]}/x.ts'
    files = {
      'concat': f'ffconcat version 1.0\nfile {other}\n',
      'hls': f'#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{address}\n#EXT-X-ENDLIST\n',
      'hls of a file': f'#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{other}\n#EXT-X-ENDLIST\n',
      'dash': '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
              f'<Period><BaseURL>{address}</BaseURL></Period></MPD>',
      'sdp': 'v=0\no=- 0 0 IN IP4 0.0.0.0\ns=x\nc=IN IP4 0.0.0.0\nt=0 0\n'
             'm=video 55444 RTP/AVP 96\na=rtpmap:96 clips.H264/90000\n',
      'text': 'ansi art\n' * 100,
      'webvtt': 'WEBVTT\n\n00:00.000 --> 00:02.000\nhello\n',
      'ffmetadata': ';FFMETADATA1\ntitle=x\n',
      'smil': f'<?xml version="1.0"?><smil><body><video src="{address}"/></body></smil>',
      'xbm': '#define x_width 16\n#define x_height 2\nstatic char x_bits[] = {0,0,0,0};\n',
    }  # fmt: skip
    before = set(os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd') else set()
    for name, text in files.items():
      with pytest.raises(errors.DecodeError, match='^open'):
        probe.probe(text.encode(), 'video')
      with pytest.raises(errors.DecodeError, match='^open'):
        decode.decode_video(text.encode(), [0.0], 32, 32)
      assert name
    server.settimeout(0.2)
    with pytest.raises(TimeoutError):
      server.accept()
    assert not before or set(os.listdir('/proc/self/fd')) <= before


def test_what_has_no_video_or_an_unknown_or_huge_one_is_refused_by_name():
  data = clips.encode(pictures=4, options=clips.H264)
  with pytest.raises(errors.DecodeError, match='^codec'):
    probe.probe(data.replace(b'avc1', b'zzzz'), 'video')
  huge = bytearray(clips.encode('png', 'mov', 'rgb24', pictures=3))
  while (place := huge.find(b'IHDR' + bytes([0, 0, 0, clips.WIDTH]))) >= 0:
    huge[place + 4 : place + 12] = 2 * (40_000).to_bytes(4, 'big')
  with pytest.raises(errors.DecodeError, match='^(too_large|decode)'):
    probe.probe(bytes(huge), 'video')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(containers, 'MAX_PIXELS', 64 * 95)
    with pytest.raises(errors.DecodeError, match='^too_large: 96x64'):
      probe.probe(data, 'video')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(frames_lib, 'MAX_FRAMES', 3)
    with pytest.raises(errors.DecodeError, match='^too_long'):
      probe.probe(data, 'video')


def test_a_picture_that_is_called_a_video_is_refused_by_what_it_is():
  with pytest.raises(errors.DecodeError, match="^open: it begins with b'.{4}PNG.*: none of mov"):
    probe.probe(clips.encode('png', 'image2pipe', 'rgb24', pictures=1), 'video')


def test_names_inside_a_file_need_not_be_utf8():
  """Found by benchmarks/fuzz_media: of a file with several streams, they are read twice."""
  data = test_streams.with_cover('matroska', 'mjpeg', marked=False)
  assert b'Lavf' in data
  row = probe.probe(data.replace(b'Lavf', b'\xff\xfe\xfd\xfc'), 'video')
  assert (row['height'], row['width'], row['num_frames']) == (clips.HEIGHT, clips.WIDTH, 6)
