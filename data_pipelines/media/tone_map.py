"""HDR to what a standard screen shows: BT.2100's PQ and HLG to BT.709, tone-mapped by BT.2390.

Both signals are turned into light in nits (ITU-R BT.2100-2, tables 4 and 5; HLG on its nominal
screen of 1,000 nits). White of standard dynamic range is 203 nits of it (BT.2408, 2.1). The curve
of BT.2390 (5.4.1), with a peak of 1,000 nits, leaves all below 92 nits alone and bends what is
above into 203; it is applied to the largest of R, G and B, so that hues stay. Then the primaries
become BT.709's, what lies outside is clipped, and the display's curve of BT.1886 is undone.
"""

import functools

import av
import numpy as np

from data_pipelines.media.errors import DecodeError

WHITE_NITS = 203.0
PEAK_NITS = 1000.0
_P3_D65, _BT709 = 12, 1  # Of primaries, in ITU-T H.273; else BT.2020's.
# AVCOL_SPC: RGB, BT.709, unspecified, and those of SMPTE 170M and BT.2020.
_MATRICES = {1: 1, 5: 5, 6: 6, 9: 9, 10: 9}
_BT2020_NCL = 9
_RGB, _UNSPECIFIED = 0, 2
_TO_BT709 = {
  _BT709: np.eye(3),
  _P3_D65: np.array(
    [[1.22494, -0.22494, 0.0], [-0.04206, 1.04206, 0.0], [-0.01964, -0.07864, 1.09828]]
  ),
}
_BT2020_TO_BT709 = np.array(
  [[1.66050, -0.58764, -0.07286], [-0.12455, 1.13290, -0.00835], [-0.01815, -0.10058, 1.11873]]
)


def matrix(frame: av.VideoFrame) -> int | None:
  """The colour matrix to read an HDR frame by; BT.2020's if it says none.

  Raises:
    DecodeError: one that the scaler does not know: Dolby Vision's own, ICtCp.
  """
  if frame.colorspace == _RGB:
    return None
  if frame.colorspace == _UNSPECIFIED:
    return _BT2020_NCL
  if frame.colorspace not in _MATRICES:
    raise DecodeError('hdr', f'its colour matrix is number {frame.colorspace} of ITU-T H.273.')
  return _MATRICES[frame.colorspace]


def to_sdr(pixels_HWC: np.ndarray, kind: str, primaries: int) -> np.ndarray:
  """The pixels as standard dynamic range, uint8.

  Args:
    pixels_HWC: uint16 RGB of the whole range, nonlinear.
    kind: 'pq' or 'hlg'.
    primaries: of the pixels, by their number in ITU-T H.273.
  """
  if kind == 'pq':
    nits_HWC = _pq_table()[pixels_HWC]
  else:
    scene_HWC = _hlg_table()[pixels_HWC]
    luminance_HW1 = scene_HWC @ np.array([[0.2627], [0.6780], [0.0593]], np.float32)
    nits_HWC = np.float32(PEAK_NITS) * luminance_HW1 ** np.float32(0.2) * scene_HWC
  largest_HW1 = nits_HWC.max(axis=-1, keepdims=True)
  light_HWC = nits_HWC * _gain(largest_HW1)
  to_bt709 = _TO_BT709.get(primaries, _BT2020_TO_BT709).astype(np.float32)
  light_HWC = np.clip(light_HWC @ to_bt709.T / np.float32(WHITE_NITS), 0, 1)
  return np.rint(255 * light_HWC ** np.float32(1 / 2.4)).astype(np.uint8)


def _gain(nits: np.ndarray) -> np.ndarray:
  """Factor on the light of pixels whose largest channel has so many nits."""
  signals = np.linspace(0, 1, 4096)  # Of PQ: as fine as eyes are.
  before, after = signals, _bt2390(signals)
  factor = _pq_to_nits(after) / np.maximum(_pq_to_nits(before), 1e-9)
  factor[0] = 1
  place = _nits_to_pq(nits) * np.float32(len(signals) - 1)
  return np.interp(place, np.arange(len(signals)), factor).astype(np.float32)


def _bt2390(signal: np.ndarray) -> np.ndarray:
  """PQ signals of up to PEAK_NITS and more to ones of at most WHITE_NITS; black is 0."""
  peak = _nits_to_pq(np.array(PEAK_NITS))
  scaled = np.minimum(signal / peak, 1)
  most = _nits_to_pq(np.array(WHITE_NITS)) / peak
  knee = 1.5 * most - 0.5
  t = np.maximum((scaled - knee) / (1 - knee), 0)
  spline = (
    (2 * t**3 - 3 * t**2 + 1) * knee
    + (t**3 - 2 * t**2 + t) * (1 - knee)
    + (3 * t**2 - 2 * t**3) * most
  )
  return peak * np.where(scaled < knee, scaled, spline)


# SMPTE ST 2084's constants.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_to_nits(signal: np.ndarray) -> np.ndarray:
  power = signal ** (1 / _M2)
  return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def _nits_to_pq(nits: np.ndarray) -> np.ndarray:
  power = (nits / 10000) ** _M1
  return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


@functools.cache
def _pq_table() -> np.ndarray:
  return _pq_to_nits(np.arange(65536) / 65535).astype(np.float32)


@functools.cache
def _hlg_table() -> np.ndarray:
  """Light of the scene, 0 to 1, of each signal: the inverse of HLG's OETF."""
  a, b, c = 0.17883277, 0.28466892, 0.55991073
  signal = np.arange(65536) / 65535
  return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(
    np.float32
  )
