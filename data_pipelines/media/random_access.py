"""Whether decoding can start at a packet, by its bytes: containers call more packets key frames.

A stream with periodic intra refresh has one true key frame, its first. What follows renews a strip
of the picture at a time; its "key frames" begin such a round, and decoding from there shows grey or
green where the strips have not been yet. Files without a table of key frames call all packets so.
"""

import re
from collections.abc import Iterator

import av

_ANNEX_B = re.compile(b'\x00\x00\x01')
_MPEG2_PICTURE, _MPEG4_PICTURE = b'\x00\x00\x01\x00', b'\x00\x00\x01\xb6'
_H264_IDR, _H264_SEI = 5, 6
_RECOVERY_POINT = 6  # The payload of an SEI message.
_HEVC_INTRA = range(16, 22)  # BLA, IDR, CRA.
_AV1_SEQUENCE_HEADER = 1


def can_start(packet: av.Packet, context: av.VideoCodecContext) -> bool:
  """True if all frames from this packet's on decode as they do from the file's beginning.

  Args:
    packet: of a video.
    context: of its stream.
  """
  if not packet.is_keyframe:
    return False
  name = context.codec.canonical_name
  if name not in _BY_CODEC:  # Most of the others have key frames only.
    return True
  try:
    return _BY_CODEC[name](bytes(packet), context.extradata or b'')
  except IndexError:  # It ends too early.
    return False


def _h264(data: bytes, extradata: bytes) -> bool:
  for unit in _units(data, extradata[4] if extradata[:1] == b'\x01' else None):
    kind = unit[0] & 31
    if kind == _H264_IDR:
      return True
    if kind == _H264_SEI and _frames_to_recovery(unit) == 0:
      return True
  return False


def _hevc(data: bytes, extradata: bytes) -> bool:
  units = _units(data, extradata[21] if extradata[:1] == b'\x01' else None)
  return any((unit[0] >> 1) & 63 in _HEVC_INTRA for unit in units)


def _units(data: bytes, length_field: int | None) -> Iterator[bytes]:
  """The NAL units of a packet; those of mp4 and Matroska come with their lengths."""
  if length_field is None:
    starts = [match.end() for match in _ANNEX_B.finditer(data)]
    ends = [start - 3 for start in starts[1:]] + [len(data)]
    yield from (data[start:end] for start, end in zip(starts, ends, strict=True) if start < end)
    return
  size, place = (length_field & 3) + 1, 0
  while place + size < len(data):
    length = int.from_bytes(data[place : place + size], 'big')
    if length:
      yield data[place + size : place + size + length]
    place += size + length


def _frames_to_recovery(sei: bytes) -> int | None:
  """recovery_frame_cnt of H.264's SEI (7.3.2.3.1, D.1.8); None if it is about something else."""
  message = sei[1:].replace(b'\x00\x00\x03', b'\x00\x00')
  place = 0
  while place + 2 < len(message):
    kind, size = 0, 0
    while message[place] == 255:
      kind, place = kind + 255, place + 1
    kind, place = kind + message[place], place + 1
    while message[place] == 255:
      size, place = size + 255, place + 1
    size, place = size + message[place], place + 1
    if kind == _RECOVERY_POINT:
      bits = ''.join(f'{byte:08b}' for byte in message[place : place + 5])
      zeros = bits.index('1') if '1' in bits else 0
      return int(bits[zeros : 2 * zeros + 1], 2) - 1  # Exp-Golomb.
    place += size
  return None


def _mpeg2(data: bytes, _: bytes) -> bool:
  return (data[data.index(_MPEG2_PICTURE) + 5] >> 3) & 7 == 1 if _MPEG2_PICTURE in data else False


def _mpeg4(data: bytes, _: bytes) -> bool:
  return data[data.index(_MPEG4_PICTURE) + 4] >> 6 == 0 if _MPEG4_PICTURE in data else False


def _vp8(data: bytes, _: bytes) -> bool:
  return not data[0] & 1


def _vp9(data: bytes, _: bytes) -> bool:
  """Marker 2 bits, profile 2 (and one reserved in profile 3), show_existing_frame, frame_type."""
  bits = data[0] << (1 if data[0] & 0x30 == 0x30 else 0)
  return not bits & 0b1000 and not bits & 0b100


def _av1(data: bytes, _: bytes) -> bool:
  """A sequence header comes with each key frame that can be started from (section 7.5)."""
  place = 0
  while place < len(data):
    header = data[place]
    if (header >> 3) & 15 == _AV1_SEQUENCE_HEADER:
      return True
    place += 2 if header & 4 else 1
    if not header & 2:
      break  # It has no size: it is the last one.
    size, shift = 0, 0
    while True:
      byte = data[place]
      size, place, shift = size | (byte & 127) << shift, place + 1, shift + 7
      if not byte & 128:
        break
    place += size
  return False


_BY_CODEC = dict(
  h264=_h264, hevc=_hevc, mpeg1video=_mpeg2, mpeg2video=_mpeg2, mpeg4=_mpeg4, vp8=_vp8, vp9=_vp9,
  av1=_av1,
)  # fmt: skip
