"""Copies are found however they were edited; what looks alike by chance is none."""

import hashlib

import cv2
import numpy as np
import pytest

from data_pipelines import demo_corpus
from data_pipelines.curate import duplicates, grouping, measure, prints, proof
from tests import media

FPS = 24


@pytest.fixture(scope='module')
def scenes():
  """Pictures with contrast at all scales, as photographs have."""
  return [media.scene(seed, 180, 256)[..., ::-1] for seed in range(8)]


def row(frames, key):
  digest = hashlib.sha256(str(key).encode()).hexdigest()
  return prints.of_frames(frames) | dict(sha256=digest)


def groups(rows):
  digests = [np.frombuffer(bytes.fromhex(row['sha256'])[:16], np.uint64) for row in rows]
  return duplicates.groups(
    np.array(digests),
    np.stack([duplicates.print_of(row) for row in rows]),
    lambda indices: (proof.Evidence.of(rows[i]) for i in indices.tolist()),
  )


def crop(share, picture):
  rows, columns = (round(share * side) for side in picture.shape[:2])
  return cv2.resize(picture[rows:-rows, columns:-columns], (256, 180), interpolation=cv2.INTER_AREA)


def marked(picture):
  picture = picture.copy()
  picture[150:175, 160:250] = 255
  return cv2.putText(picture, 'STOCK', (165, 170), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)


EDITS = {
  'crop of 5 %': lambda picture: crop(0.05, picture),
  'crop of 10 %': lambda picture: crop(0.10, picture),
  'corner cut off': lambda picture: cv2.resize(picture[:164, :232], (256, 181)),
  'flip': lambda picture: picture[:, ::-1],
  'letterbox': lambda picture: cv2.copyMakeBorder(picture, 24, 24, 0, 0, cv2.BORDER_CONSTANT),
  'watermark': marked,
  'encoded': lambda picture: cv2.imdecode(
    cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR
  ),
}


@pytest.mark.parametrize('edit', EDITS)
def test_an_edited_picture_is_a_copy_of_its_original_alone(scenes, edit):
  rows = [row([np.ascontiguousarray(scene)], i) for i, scene in enumerate(scenes)]
  rows += [row([np.ascontiguousarray(EDITS[edit](s))], f'edit {i}') for i, s in enumerate(scenes)]
  np.testing.assert_array_equal(groups(rows), [*range(8), *range(8)])


def test_what_a_row_holds_is_bounded(scenes):
  found = prints.of_frames([np.ascontiguousarray(scene) for scene in scenes[:3]])
  assert len(found['hashes']) == len(found['points']) == 3 and len(found['part_hashes']) == 11
  assert all(0 < len(points) <= 320 for points in found['points'])


def pan(scene, num_frames, start=0):
  return np.stack([scene[30:170, 2 * i + start : 2 * i + start + 128] for i in range(num_frames)])


def test_a_trimmed_video_is_a_copy_and_one_that_shares_a_title_is_none():
  scenes = [media.scene(seed, 180, 360) for seed in range(5)]
  title = pan(scenes[4], 1).repeat(24, axis=0)
  videos = [pan(scene, 72) for scene in scenes[:4]]
  videos[2] = np.concatenate([title, videos[2][:48]])
  videos[3] = np.concatenate([title, videos[3][:48]])
  videos += [videos[0][12:], videos[1][:-12]]
  rows = []
  for index, frames in enumerate(videos):
    data = demo_corpus.encode_video(frames, FPS)
    found = measure.measure(data, 'video', FPS, {})
    rows.append(found | dict(sha256=hashlib.sha256(str(index).encode()).hexdigest()))
  np.testing.assert_array_equal(groups(rows), [0, 1, 2, 3, 0, 1])


def plain(index):
  """A colour, with a box or a disc of another one."""
  rng = np.random.default_rng(index)
  colors = rng.integers(0, 256, (2, 3)).tolist()
  frame = np.full((144, 256, 3), colors[0], np.uint8)
  x, y, size = rng.integers(20, 80, 3).tolist()
  if index % 3 == 0:
    cv2.rectangle(frame, (2 * x, y), (2 * x + size, y + size), colors[1], -1)
  elif index % 3 == 1:
    cv2.circle(frame, (2 * x, y), size // 2, colors[1], -1)
  return frame


def test_plain_frames_are_copies_by_their_bytes_alone():
  rows = [row([plain(index)], index) for index in range(300)]
  rows.append(rows[7])
  assert sum(row['hashes'] == [0] and not row['part_hashes'] for row in rows) > 290
  np.testing.assert_array_equal(groups(rows), [*range(300), 7])


def evidence(places, seed=0):
  """Of a picture with points at these places; those of the other seed look different."""
  points = np.zeros(len(places), proof.POINT)
  points['hash'] = np.random.default_rng(seed).integers(0, 2**63, len(places), dtype=np.uint64)
  points['place'] = places
  return proof.Evidence([1], [points])


PLACES = np.random.default_rng(0).integers(20, 200, (12, 2)).astype(np.float64)


@pytest.mark.parametrize(
  'one, other, is_copy',
  [
    (PLACES, PLACES, True),
    (PLACES, 0.8 * PLACES + 30, True),
    (PLACES, 0.5 * PLACES, False),  # No crop of a tenth of each side does that.
    (PLACES, PLACES[::-1], False),
    (110 + PLACES / 5, 110 + PLACES / 5, False),  # A mark that both have.
  ],
  ids=['same', 'cropped', 'far smaller', 'elsewhere', 'mark'],
)
def test_what_looks_alike_has_to_lie_alike_over_a_good_part_of_the_frame(one, other, is_copy):
  assert proof.is_copy(evidence(one), evidence(other)) == is_copy
  assert not proof.is_copy(evidence(one), evidence(other, seed=1))


def test_few_wrong_bits_are_proposed_among_many_hashes():
  rng = np.random.default_rng(0)
  found = np.zeros(3200, duplicates.PRINT)
  found['num_frames'] = 1
  found['frames'][:, 0] = rng.integers(1, 2**63, 3200, dtype=np.uint64)
  found['parts'] = rng.integers(1, 2**63, found['parts'].shape, dtype=np.uint64)
  copied = rng.choice(3000, 200, replace=False)
  for copy, original in enumerate(copied, 3000):  # The whole looks as a part does.
    wrong = rng.choice(63, 6, replace=False).astype(np.uint64)
    mask = np.bitwise_or.reduce(np.uint64(1) << wrong)
    found['frames'][copy, 0] = found['parts'][original, copy % 7] ^ mask
  pairs = np.stack(duplicates.unique_pairs(found, grouping.Groups(3200)), axis=1)
  hits = {(a, b) for a, b in pairs.tolist()} & set(
    zip(copied.tolist(), range(3000, 3200), strict=True)
  )
  assert len(hits) > 180 and len(pairs) < 220
