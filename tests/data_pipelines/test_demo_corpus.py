"""What the demo corpus's captions say is what its pixels show."""

import hashlib
import pathlib

import numpy as np
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import demo_corpus
from data_pipelines.media import decode
from tests import corpora

TOWARDS = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}  # x, y downwards.


def centroid_and_color(frames):
  """Centroid (F, 2) as x, y and mean colour (F, 3) of what differs from the background."""
  frames = frames.astype(float)
  background = np.median(frames.reshape(len(frames), -1, 3), axis=1)[:, None, None]
  mask = np.abs(frames - background).max(axis=-1) > 60
  y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
  area = mask.sum(axis=(1, 2))
  centers = np.stack([(mask * x).sum(axis=(1, 2)), (mask * y).sum(axis=(1, 2))], -1) / area[:, None]
  return centers, (mask[..., None] * frames).sum(axis=(1, 2)) / area[:, None]


@pytest.mark.parametrize('index', range(72))
def test_caption_tells_direction_and_color_of_the_decoded_video(index):
  attributes = demo_corpus.attributes_of(index)
  rng = np.random.default_rng(index)
  frames, caption, _ = demo_corpus.render_video(rng, attributes)
  assert demo_corpus.parse_caption(caption) == attributes
  times = np.arange(8) / 8  # A training window.
  decoded, _ = decode.decode_video(demo_corpus.encode_video(frames), times, 64, 64)
  centers, colors = centroid_and_color(decoded)
  moved = (centers[-1] - centers[0]) / 64
  direction = np.array(TOWARDS[attributes['direction']])
  assert (
    moved @ direction > 0.33
  )  # Less than the true 0.36 where the shape's edge leaves the frame.
  assert abs(moved @ direction[::-1]) < 0.03
  distances = {
    name: np.abs(colors[0] - np.array(rgb)).sum() for name, rgb in demo_corpus.COLORS.items()
  }
  assert min(distances, key=distances.get) == attributes['color']


def test_first_frame_does_not_tell_the_direction():
  for seed in range(5):
    first_frames = [
      demo_corpus.render_video(
        np.random.default_rng(seed), dict(shape='circle', color='red', direction=direction)
      )[0][0]
      for direction in demo_corpus.DIRECTIONS
    ]
    for frame in first_frames[1:]:
      np.testing.assert_array_equal(frame, first_frames[0])


def test_72_videos_in_a_row_hold_every_combination_once():
  found = {tuple(demo_corpus.attributes_of(i).values()) for i in range(500, 572)}
  assert len(found) == 72


def test_captions_use_the_declared_vocabulary():
  rng = np.random.default_rng(0)
  words = {
    word
    for index in range(72)
    for render in (demo_corpus.render_video, demo_corpus.render_image)
    for word in render(rng, demo_corpus.attributes_of(index), 16)[1].split()
  }
  named = (*demo_corpus.SHAPES, *demo_corpus.COLORS, *demo_corpus.DIRECTIONS)
  assert words == {'a', 'moves', *named}


@pytest.mark.parametrize('caption', ['a red moves left', 'a red green circle moves left', ''])
def test_captions_that_name_no_or_two_values_are_refused(caption):
  with pytest.raises(ValueError, match='should name one'):
    demo_corpus.parse_caption(caption)


@pytest.mark.parametrize('wrong', ['num_videos=-1', 'num_images=-1', 'num_processes=0'])
def test_counts_that_cannot_be_are_refused(tmp_path, wrong):
  arguments = ['--num_videos=1', '--num_validation=1', '--num_images=1', f'--{wrong}']
  said = '--num_processes: 0 must be at least 1' if wrong == 'num_processes=0' else wrong
  with corpora.ends_with_2(said):
    commands.main(['demo', f'--output={tmp_path}/demo', *arguments])
  assert not list(tmp_path.iterdir())


def test_written_bytes_depend_on_the_arguments_alone(tmp_path):
  digests = []
  for name, num_processes in (('a', 1), ('b', 2)):
    demo_corpus.write(str(tmp_path / name), 6, 4, 4, size=32, num_processes=num_processes)
    files = sorted(p for p in pathlib.Path(tmp_path / name).rglob('*') if p.is_file())
    digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert len(files) >= 6 + 4 + 2 + 3
  assert digests[0] == digests[1]
  with pytest.raises(ValueError, match='other arguments'):
    demo_corpus.write(str(tmp_path / 'a'), 7, 4, 4, size=32)


def test_the_default_corpus_keeps_its_bytes(tmp_path):
  """Runs, figures and weights in the repository are of these."""
  demo_corpus.write(str(tmp_path), 9, 4, 5, size=32, num_processes=1)
  digest = hashlib.sha256()
  for path in sorted(path for path in tmp_path.rglob('*') if path.is_file()):
    digest.update(path.relative_to(tmp_path).as_posix().encode() + b'\0' + path.read_bytes())
  expected = 'e42c7599728a70c2d7bad2761a6edeffb80939cfd73f46a7606f9e133d8b7a27'
  assert digest.hexdigest() == expected  # With the pinned PyAV, Pillow and PyArrow.
