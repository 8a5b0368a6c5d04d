"""Which aspect an example goes to, and which aspects a config may have."""

import fractions

import numpy as np
import pytest

from configs import i2v, refine
from data_pipelines.corpus import aspects, buckets

BASE = aspects.Framing('b', aspects.BASE, 0.5, 2.0)


@pytest.mark.parametrize(
  'size, name',
  [
    ((1080, 1920), '448x256'),
    ((1920, 1080), '256x448'),
    ((256, 448), '448x256'),
    ((480, 640), '384x320'),
    ((640, 480), '320x384'),
    ((256, 256), '384x320'),  # Cropped alike by two: the first.
    ((256, 341), '384x320'),
    ((256, 455), '448x256'),  # img2dataset's files of 256 pixels: enlarged 1.0 to 1.5 times.
    ((128, 224), '448x256'),
    ((127, 224), 'max_enlarge'),
    ((240, 1920), 'max_crop'),
    ((24, 320), 'max_crop'),  # Also small: counted once.
  ],
)
def test_a_picture_goes_to_the_aspect_that_crops_it_least_within_bounds(size, name):
  counts = BASE.count(*np.array(size)[:, None])
  assert [key for key, count in counts.items() if count] == [name] and counts[name] == 1
  if not name.startswith('max'):
    assert aspects.name_of(aspects.nearest(aspects.BASE, *size)) == name


def test_the_least_cropped_is_so_by_fractions_also_over_chunks(monkeypatch):
  monkeypatch.setattr(aspects, 'CHUNK', 7)
  rng = np.random.default_rng(0)
  heights, widths = rng.integers(16, 5000, (2, 300))
  widths[:40] = heights[:40]  # Squares, which two of the sizes crop alike.
  framing = aspects.Framing('b', aspects.BASE)
  found = framing.assign(heights, widths)
  for number, height, width in zip(found, heights.tolist(), widths.tolist(), strict=True):
    kept = []
    for cut_height, cut_width in aspects.BASE:
      ratio = fractions.Fraction(cut_width * height, cut_height * width)
      kept.append(min(ratio, 1 / ratio))
    assert number == kept.index(max(kept))
  bounded = aspects.Framing('b', aspects.BASE, 0.4, 0.5)
  counts = bounded.count(heights, widths, np.full(300, 3))
  assert sum(counts.values()) == 900 and counts['max_crop'] and counts['max_enlarge']


def config_of(bucket_list=None, **data):
  size = dict(height=256, width=448, batch_size=2, weight=3.0)
  bucket_list = bucket_list or dict(f16=dict(media='video', frames=16, fps=8.0, **size))
  return dict(data=dict(buckets=bucket_list, **data), refine=dict(levels=0))


def test_a_bucket_becomes_one_for_each_aspect():
  plain = buckets.from_config(config_of(aspects=(), max_crop=0.0, max_enlarge=0.0))
  assert plain == buckets.from_config(config_of()) and plain[0].framing is None
  assert plain[0].described() == ('f16', 16, 256, 448, 8.0, 2, 3.0, 'video')
  found = buckets.from_config(config_of(aspects=[[256, 448], [448, 256], [320, 384]]))  # As JSON.
  assert [b.name for b in found] == ['f16_448x256', 'f16_256x448', 'f16_384x320']
  assert [b.size for b in found] == [(256, 448), (448, 256), (320, 384)]
  assert {(b.frames, b.fps, b.batch_size, b.group) for b in found} == {(16, 8.0, 2, 'f16')}
  assert sum(b.weight for b in found) == 3.0
  assert (found[0].framing.max_crop, found[0].framing.max_enlarge) == (0.5, 2.0)
  bounded = buckets.from_config(config_of(aspects=((256, 448),), max_crop=0.2, max_enlarge=9.0))
  assert (bounded[0].framing.max_crop, bounded[0].framing.max_enlarge) == (0.2, 9.0)


def test_the_shipped_aspects_are_valid_and_those_that_commands_count():
  config = i2v.get_config('aspects')
  assert tuple(config.data.aspects) == aspects.BASE
  assert len(buckets.from_config(config)) == 4 * len(config.data.buckets)
  assert len(buckets.from_config(refine.get_config('aspects'))) == 12


@pytest.mark.parametrize(
  'data, levels, message',
  [
    (
      dict(aspects=((256, 448), (448, 250))),
      0,
      'width=250 should be a multiple of 64.* 192 or 256',
    ),
    (dict(aspects=((272, 416),)), 0, 'height=272 should be a multiple of 64'),
    (dict(aspects=((250, 448),)), 600, 'height=250 should be a multiple of 16'),
    (dict(aspects=((0, 448),)), 0, 'height=0 should be'),
    (dict(aspects=((256, 448), (256, 448))), 0, r'\(256, 448\) twice'),
    (dict(aspects=(256, 448)), 0, 'has 256: give .height, width. of each'),
    (dict(aspects=('448x256',)), 0, "has '448x256': give"),
    (dict(aspects=((256.0, 448.0),)), 0, 'has .256.0, 448.0.: give'),
    (dict(aspects=((320, 320), (320, 384))), 0, '1.20 times fewer.*within 15% of each other'),
    (dict(aspects=((512, 512),)), 0, "bucket 'f16': 512x512 has 262,144 pixels"),
    (dict(aspects=((256, 448),), max_crop=1.5), 0, r'max_crop=1.5 should be in \[0, 1\]'),
    (dict(max_enlarge=-1.0), 0, 'max_enlarge=-1.0 should be > 0'),
  ],
)
def test_aspects_that_cannot_be_say_what_to_change(data, levels, message):
  with pytest.raises(ValueError, match=message):
    buckets.from_config(config_of(**data) | dict(refine=dict(levels=levels)))


def test_a_refinement_stage_may_have_multiples_of_16():
  config = config_of(aspects=((272, 416), (256, 448))) | dict(refine=dict(levels=600))
  assert len(buckets.from_config(config)) == 2


def test_sizes_are_read_as_flags_give_them():
  assert aspects.parse('448x256, 256x448') == ((256, 448), (448, 256))
  assert aspects.parse('') == ()
  for text in ('448', '448x', 'ax2', '448*256', '-8x8', '0x256'):
    with pytest.raises(ValueError, match='should be WIDTHxHEIGHT'):
      aspects.parse(text)
