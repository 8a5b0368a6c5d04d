"""Contact sheets show every frame as it is, beside what it is of."""

import numpy as np

from i2vgen_jax.sampling import sheets
from tests.data_pipelines.test_pages import contrast

RNG = np.random.default_rng(0)


def videos(frames=3, height=20, width=64, names=('real', 'sampled')):
  return {name: RNG.integers(0, 256, (2, frames, height, width, 3), np.uint8) for name in names}


def places(sheet_HWC, frame_HWC):
  """(y, x) at which the sheet holds the frame."""
  height, width, _ = frame_HWC.shape
  windows = np.lib.stride_tricks.sliding_window_view(sheet_HWC[..., 0], (height, width))
  ys, xs = np.nonzero(windows[..., 0, 0] == frame_HWC[0, 0, 0])
  return [
    (y, x)
    for y, x in zip(ys, xs, strict=True)
    if np.array_equal(sheet_HWC[y : y + height, x : x + width], frame_HWC)
  ]


def test_frames_stand_in_rows_by_set_and_in_columns_by_time():
  found = videos()
  sheet_HWC = sheets.contact_sheet(found, ['a', 'b'], 8.0, 'step 7')
  where = {
    (name, clip, i): places(sheet_HWC, frame)
    for name, clips in found.items()
    for clip, video in enumerate(clips)
    for i, frame in enumerate(video)
  }
  assert all(len(each) == 1 for each in where.values())
  order = [where[name, clip, 0][0] for clip in range(2) for name in found]
  assert [y for y, _ in order] == sorted({y for y, _ in order}) and len({x for _, x in order}) == 1
  for clip in range(2):
    for name in found:
      ys, xs = zip(*(where[name, clip, i][0] for i in range(3)), strict=True)
      assert len(set(ys)) == 1 and set(np.diff(xs)) == {64 + sheets.GAP}


def written(sheet_HWC):
  """Rows of the sheet that hold text."""
  return (sheet_HWC == sheets.TEXT).all(-1).any(1).sum()


def test_captions_and_the_heading_are_written_and_long_ones_wrapped_and_cut():
  plain, long = np.zeros((1, 3, 8, 64, 3), np.uint8), 'word ' * 500
  sheets_of = {
    text: sheets.contact_sheet({'real': plain}, [text], 8.0, 'step 7') for text in ('', 'a', long)
  }
  shapes = {text: sheet_HWC.shape for text, sheet_HWC in sheets_of.items()}
  assert shapes['a'][1] == shapes[long][1]
  line = sum(sheets._font(11).getmetrics())
  assert shapes[long][0] == shapes['a'][0] + (sheets.MOST_LINES - 1) * line
  assert written(sheets_of['a']) > written(sheets_of['']) > 0  # The number, and the heading.
  assert written(sheets_of[long]) > 2 * written(sheets_of['a']) - written(sheets_of[''])


def test_texts_can_be_read():
  for colour in (sheets.TEXT, sheets.QUIET):
    assert contrast(colour, sheets.GROUND) >= 7
