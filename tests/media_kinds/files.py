"""Writers of PNG, TIFF, EXIF and ICC, for what Pillow does not write: by their specifications."""

import struct
import zlib

import numpy as np

# Chromaticities (x, y) of white, red, green, blue.
D65 = (0.3127, 0.3290)
SRGB = (D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = (D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = (D65, (0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
BT2020 = (D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
PROPHOTO = ((0.3457, 0.3585), (0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))
D50_XYZ = np.array([0.9642, 1.0, 0.8249])


def exif(orientation, order='<'):
  """A block of EXIF with one tag."""
  mark = b'II' if order == '<' else b'MM'
  return mark + struct.pack(order + 'HIHHHIHHI', 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def png(samples_HWC, depth=8, kind=2, before=(), after=()):
  """A PNG.

  Args:
    samples_HWC: integers below 2**depth.
    depth: bits of a sample.
    kind: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA.
    before: (name, content) of chunks before the pixels.
    after: likewise, behind them.
  """
  height, width, channels = samples_HWC.shape
  rows = np.asarray(samples_HWC).reshape(height, width * channels)
  if depth == 16:
    packed = [row.astype('>u2').tobytes() for row in rows]
  elif depth == 8:
    packed = [row.astype(np.uint8).tobytes() for row in rows]
  else:
    bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
    packed = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in bits]
  header = struct.pack('>IIBBBBB', width, height, depth, kind, 0, 0, 0)
  pixels = zlib.compress(b''.join(b'\0' + row for row in packed))
  chunks = [(b'IHDR', header), *before, (b'IDAT', pixels), *after, (b'IEND', b'')]
  return b'\x89PNG\r\n\x1a\n' + b''.join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(name, content):
  """Length, name, content, checksum."""
  checksum = zlib.crc32(name + content)
  return struct.pack('>I', len(content)) + name + content + struct.pack('>I', checksum)


def chromaticities(primaries):
  """Of cHRM."""
  return struct.pack('>8I', *(round(value * 100_000) for pair in primaries for value in pair))


def tiff(pixels, size, *, photometric, bits, channels=1, order='<', tags=()):
  """A TIFF of one strip.

  Args:
    pixels: bytes of the strip.
    size: (height, width).
    photometric: 0 white is zero, 1 black is zero, 2 RGB, 3 palette, 5 CMYK, 8 Lab.
    bits: of a sample.
    channels: samples of a pixel.
    order: '<' or '>'.
    tags: (number, type, values) besides, or in place of those; type 1 bytes, 3 shorts, 4 longs.
  """
  height, width = size
  entries = [
    (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]),
    (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]), (278, 4, [height]),
    (279, 4, [len(pixels)]),
  ]  # fmt: skip
  entries = [entry for entry in entries if entry[0] not in {tag[0] for tag in tags}] + [*tags]
  pixels += b'\0' * (len(pixels) % 2)
  start = 8 + len(pixels)
  extra_at = start + 2 + 12 * len(entries) + 4
  table, extra = b'', b''
  for number, kind, values in sorted(entries):
    content = struct.pack(order + str(len(values)) + {1: 'B', 3: 'H', 4: 'I'}[kind], *values)
    if len(content) > 4:
      where = struct.pack(order + 'I', extra_at + len(extra))
      extra += content + b'\0' * (len(content) % 2)
    else:
      where = content.ljust(4, b'\0')
    table += struct.pack(order + 'HHI', number, kind, len(values)) + where
  mark = b'II' if order == '<' else b'MM'
  head = mark + struct.pack(order + 'HI', 42, start)
  return head + pixels + struct.pack(order + 'H', len(entries)) + table + bytes(4) + extra


def to_xyz(primaries):
  """The matrix from linear RGB to XYZ."""
  xy = np.array(primaries)
  xyz = np.stack([xy[:, 0] / xy[:, 1], np.ones(4), (1 - xy.sum(1)) / xy[:, 1]])
  return xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0])


def adapted(primaries):
  """to_xyz under D50, by Bradford's cones."""
  cones = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
  )
  matrix = to_xyz(primaries)
  gains = (cones @ D50_XYZ) / (cones @ matrix.sum(1))
  return np.linalg.inv(cones) @ np.diag(gains) @ cones @ matrix


def srgb_to_linear(levels):
  """0..255 -> 0..1."""
  values = np.asarray(levels) / 255
  return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light):
  """0..1 -> 0..255."""
  light = np.clip(light, 0, 1)
  return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def stored_in(pixels_HWC, primaries, gamma=None):
  """sRGB pixels as they are written in another space: uint8; gamma None is sRGB's curve."""
  matrix = np.linalg.solve(adapted(primaries), adapted(SRGB))
  light = np.clip(srgb_to_linear(pixels_HWC) @ matrix.T, 0, 1)
  return np.rint(linear_to_srgb(light) if gamma is None else 255 * light ** (1 / gamma)).astype(
    np.uint8
  )


def _profile(kind, space, pcs, tags):
  table, body, start = b'', b'', 132 + 12 * len(tags)
  for name, content in tags:
    table += struct.pack('>4sII', name, start + len(body), len(content))
    body += content + bytes(-len(content) % 4)
  fixed = struct.pack('>3i', *(round(value * 65536) for value in D50_XYZ))
  head = struct.pack('>I4xI4s4s4s12x4s', start + len(body), 0x02400000, kind, space, pcs, b'acsp')
  return (
    (head.ljust(68, b'\0') + fixed).ljust(128, b'\0') + struct.pack('>I', len(tags)) + table + body
  )


def _curve(gamma):
  """A table of 1024 samples, as scanners and old cameras have; gamma None is sRGB's curve."""
  steps = np.linspace(0, 1, 1024)
  light = srgb_to_linear(255 * steps) if gamma is None else steps**gamma
  return b'curv\0\0\0\0' + struct.pack('>I', 1024) + np.rint(65535 * light).astype('>u2').tobytes()


def rgb_profile(primaries, gamma=None, codes=()):
  """A matrix profile; codes are those of H.273 that it may say besides."""
  curve = _curve(gamma)
  tags = [
    (b'wtpt', b'XYZ \0\0\0\0' + struct.pack('>3i', *(round(v * 65536) for v in D50_XYZ))),
    *((name, curve) for name in (b'rTRC', b'gTRC', b'bTRC')),
  ]
  for name, column in zip((b'rXYZ', b'gXYZ', b'bXYZ'), adapted(primaries).T, strict=True):
    tags.append((name, b'XYZ \0\0\0\0' + struct.pack('>3i', *(round(v * 65536) for v in column))))
  if codes:
    tags.append((b'cicp', b'cicp\0\0\0\0' + bytes(codes)))
  return _profile(b'mntr', b'RGB ', b'XYZ ', tags)


def grey_profile(gamma):
  """Of one channel."""
  white = b'XYZ \0\0\0\0' + struct.pack('>3i', *(round(v * 65536) for v in D50_XYZ))
  return _profile(b'mntr', b'GRAY', b'XYZ ', [(b'wtpt', white), (b'kTRC', _curve(gamma))])


def cmyk_profile():
  """Of a press whose inks are not ideal: Lab at the 16 corners of the inks' cube."""
  corners = np.array(np.meshgrid(*[[0, 1]] * 4, indexing='ij')).reshape(4, 16).T
  ink = np.array([[55, -37, -50], [48, 74, -3], [89, -5, 93], [16, 0, 0]], float)
  paper = np.array([95.0, 0.0, -2.0])
  lab = [paper * np.prod([1 - c * (1 - i[0] / 100) for c, i in zip(corner, ink, strict=True)])
         + [0, *(corner @ ink[:, 1:] * (1 - 0.9 * corner[3]))] for corner in corners]  # fmt: skip
  lab = np.clip(np.array(lab) * [2.55, 1, 1] + [0, 128, 128], 0, 255).astype(np.uint8)
  ramp = bytes(range(256))
  identity = struct.pack('>9i', *(65536 * np.eye(3).ravel().astype(int)))
  table = b'mft1\0\0\0\0' + bytes([4, 3, 2, 0]) + identity + 4 * ramp + lab.tobytes() + 3 * ramp
  return _profile(b'prtr', b'CMYK', b'Lab ', [(b'A2B0', table)])
