"""Every kind of picture shows what it should, and shows the same in training and in sampling."""

import io
import json
import subprocess
import time

import imageio_ffmpeg
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from data_pipelines.corpus import reader
from data_pipelines.ingest import command as ingest
from data_pipelines.media import colours as colours_lib
from data_pipelines.media import pictures
from data_pipelines.media.errors import DecodeError
from data_pipelines.stream import decoder, fields
from i2vgen_jax.conditions import base
from tests.media_kinds import files
from tests.media_kinds.picture_kinds import (  # noqa: F401  # Each adds its kinds.
  colours,
  containers,
  depth,
  inks,
  made,
  orientation,
  refused,
  transparency,
)

FIELDS = fields.Video(), fields.ClipImage(16)
HEIGHT, WIDTH = 24, 40  # Of a bucket.
REFUSED = {name for name, make in made.KINDS.items() if isinstance(make().right, str)}


def check(picture, right, within):
  """Beside the quadrants' edges, which lossy codecs soften."""
  pixels = np.asarray(picture).astype(float)
  assert picture.mode == 'RGB' and pixels.shape == right.shape
  error = np.abs(pixels - (np.rint(right) if within == 0 else right))
  if within > 1:
    for axis in (0, 1):
      middle = error.shape[axis] // 2
      np.moveaxis(error, axis, 0)[middle - 4 : middle + 4] = 0
  assert error.max() <= within


@pytest.mark.parametrize('name', made.KINDS)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF', 'ignore:Image size')
def test_a_kind_shows_what_it_should(name):
  data, right, within = made.KINDS[name]()
  if name not in REFUSED:
    check(pictures.decode_image(data), right, within)
    return
  start = time.process_time()
  with pytest.raises(DecodeError) as caught:
    pictures.decode_image(data)
  assert caught.value.reason == right
  assert time.process_time() - start < 0.5  # Nothing large was decoded.


def test_profiles_that_say_srgb_cost_nothing():
  little_cms = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile('sRGB')).tobytes()
  for profile in (little_cms, files.rgb_profile(files.SRGB)):
    assert colours_lib.transform(profile, 'RGB') is None
  assert colours_lib.transform(files.rgb_profile(files.DISPLAY_P3), 'RGB') is not None
  assert colours_lib.transform(files.rgb_profile(files.SRGB, 2.2), 'RGB') is not None


def test_there_are_many_kinds():
  assert len(made.KINDS) >= 150 and len(REFUSED) >= 25


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """All kinds as files; their names say PNG whatever they are."""
  folder = tmp_path_factory.mktemp('kinds')
  for name, make in made.KINDS.items():
    (folder / f'{name}.png').write_bytes(make().data)
    (folder / f'{name}.txt').write_text(name)
  return folder


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
  """(manifest, reasons by kind, pixels by kind): as a stream of training decodes its corpus."""
  corpus = tmp_path_factory.mktemp('corpus')
  manifest = ingest.ingest(str(folder), str(corpus), validation_fraction=0, num_processes=1)
  lines = [line for path in corpus.glob('rejected/*') for line in path.read_text().splitlines()]
  reasons = {bad['key'].removesuffix('.png'): bad['reason'] for bad in map(json.loads, lines)}
  corpora, found = reader.Corpora(corpus, 'train'), {}
  decode = decoder.Decoder(FIELDS)
  shapes = dict(video=(1, 1, HEIGHT, WIDTH, 3), clip_image=(1, 16, 16, 3))
  for row in range(len(corpora)):
    batch = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    [(_, done)] = decode.fill(batch, {0: decoder.Request(*corpora.locate(row), ())})
    assert not done.error
    found[done.caption] = batch
  return manifest, reasons, found


def test_ingest_takes_or_rejects_every_kind_by_name(trained):
  manifest, reasons, found = trained
  assert reasons == {name: made.KINDS[name]().right for name in REFUSED}
  assert found.keys() == made.KINDS.keys() - REFUSED
  assert manifest['num_rejected'] + len(found) == len(made.KINDS)


@pytest.mark.parametrize('name', made.KINDS)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF', 'ignore:Image size')
def test_sampling_sees_what_training_sees_to_the_bit(name, folder, trained):
  path = folder / f'{name}.png'
  if name in REFUSED:
    with pytest.raises(ValueError, match=f'{name}.png cannot be read: {made.KINDS[name]().right}'):
      pictures.read_image(path)
    return
  image = pictures.read_image(path)
  request = base.Request([image], ['a'], HEIGHT, WIDTH, 8.0, pixel_fields=FIELDS)
  for field, pixels in trained[2][name].items():
    np.testing.assert_array_equal(request.batch[field], pixels)


def test_a_large_jpeg_is_decoded_at_half_its_size_in_both(folder, trained):
  """The case that the test above must not lose."""
  image = pictures.open_image(folder / 'large_jpeg.png')
  whole = base.Request([image], ['a'], HEIGHT, WIDTH, 8.0, pixel_fields=FIELDS).batch['video']
  assert (whole != trained[2]['large_jpeg']['video']).any()


# FFmpeg's command as a second reader of what only libraries encode.
BY_FFMPEG = {
  'jpeg': ('JPEG', dict(quality=90, subsampling=0)),
  'webp': ('WEBP', dict(quality=95)),
  'webp_lossless': ('WEBP', dict(lossless=True)),
  'avif': ('AVIF', dict(quality=95, subsampling='4:4:4', speed=10)),
  'gif': ('GIF', {}),
  'bmp': ('BMP', {}),
  'tiff_packbits': ('TIFF', dict(compression='packbits')),
  'tiff_deflate': ('TIFF', dict(compression='tiff_adobe_deflate')),
  'png': ('PNG', {}),
}


@pytest.mark.parametrize('name', BY_FFMPEG)
def test_pixels_are_those_that_ffmpeg_reads(name, tmp_path):
  form, options = BY_FFMPEG[name]
  image = PIL.Image.effect_mandelbrot((96, 64), (-2, -1.2, 1, 1.2), 60)
  image = PIL.Image.merge('RGB', [image, image.rotate(180), image.transpose(0)])
  image.save(tmp_path / 'file', form, **options)
  command = [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-i', str(tmp_path / 'file')]
  command += ['-frames:v', '1', '-sws_flags', 'accurate_rnd+full_chroma_int+full_chroma_inp']
  done = subprocess.run([*command, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'], capture_output=True)
  theirs = np.frombuffer(done.stdout, np.uint8).reshape(64, 96, 3).astype(float)
  ours = np.asarray(pictures.open_image(tmp_path / 'file'))
  difference = np.abs(ours - theirs)
  if name in ('jpeg', 'avif', 'webp'):
    assert difference.mean() < 1  # They round, and WebP's halved chroma is scaled, each its way.
  else:
    assert difference.max() == 0


def test_heic_is_upright_once():
  """Its reader turns it; the tag that remains in its EXIF data is not followed again."""
  pytest.importorskip('pillow_heif').register_heif_opener()
  for turn, store in orientation.STORED.items():
    stored = made.image(np.ascontiguousarray(store(made.pattern())))
    buffer = io.BytesIO()
    stored.save(buffer, 'HEIF', quality=100, chroma=444, exif=files.exif(turn))
    check(pictures.decode_image(buffer.getvalue()), made.pattern(), 4)


def test_heic_without_its_reader_says_what_to_install(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'pillow_heif', None)
  monkeypatch.delitem(PIL.Image.OPEN, 'HEIF', raising=False)
  with pytest.raises(DecodeError, match=r'image_format: .*pip install "i2vgen_jax\[heic\]"'):
    pictures.decode_image(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(40))
