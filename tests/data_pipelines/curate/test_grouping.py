"""Rows sorted and grouped in blocks, whatever their size; copies as they were planted."""

import hashlib

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csgraph

from data_pipelines.corpus import schema
from data_pipelines.curate import columns, decide, denylist, duplicates, grouping, proof


@pytest.fixture(params=[20, 1 << 20])
def block(request, monkeypatch):
  monkeypatch.setattr(grouping, 'BLOCK', request.param)


def test_neighbours_are_rows_in_order_and_each_pair_within_reach_comes_once(block):
  rng, reach = np.random.default_rng(0), 7
  keys = [rng.integers(0, 30, 500, np.uint64), rng.integers(0, 2**64, 500, np.uint64) >> 62]
  order, pairs = [], []
  for rows, found, num_before in grouping.neighbours(keys, reach):
    np.testing.assert_array_equal(np.stack(found), np.stack(keys)[:, rows])
    order += rows[num_before:].tolist()
    for step in range(1, reach + 1):
      start = max(num_before, step)
      pairs += zip(rows[start - step : -step].tolist(), rows[start:].tolist(), strict=True)
  expected = np.lexsort((np.arange(500), keys[1], keys[0])).tolist()
  assert order == expected
  assert sorted(pairs) == sorted(
    (expected[i], expected[i + step]) for step in range(1, 8) for i in range(500 - step)
  )


def test_groups_are_the_components_of_all_pairs_named_by_their_first_row(block):
  rng, num = np.random.default_rng(1), 400
  groups, batches = grouping.Groups(num), rng.integers(0, num, (12, 2, 15))
  batches[5] = np.arange(30).reshape(15, 2).T + 1  # And a long chain.
  batches[6] = np.arange(30).reshape(15, 2).T
  for first, second in batches:
    groups.join(first, second)
  first, second = np.concatenate(batches, axis=1)
  graph = sparse.coo_array((np.ones(len(first)), (first, second)), (num, num))
  _, label = csgraph.connected_components(graph, directed=False)
  _, smallest = np.unique(label, return_index=True)
  np.testing.assert_array_equal(groups.names(np.arange(num)[::3]), smallest[label][::3])
  np.testing.assert_array_equal(groups.all_names(), smallest[label])


def rows_of(rng, num, originals):
  """Rows of 3 frames, each a copy of an original with a few bits changed; (rows, originals)."""
  empty = {name: None for name in (*schema.SIDECAR.names, *schema.CURATE.names)}
  which = rng.integers(0, len(originals), num)
  found = []
  for number, original in enumerate(which.tolist()):
    hashes = [int(h) ^ (1 << int(rng.integers(64))) for h in originals[original]]
    same_bytes = rng.random() < 0.3
    digest = hashlib.sha256(f'{original} {0 if same_bytes else number}'.encode()).hexdigest()
    row = dict(key=str(number), media='video', flags=[], width=640, span_start=0.0, span_end=5.0)
    points = np.zeros(12, proof.POINT)  # The same of all that are copies.
    points['hash'] = np.random.default_rng(original).integers(0, 2**63, 12, np.uint64)
    points['place'] = np.random.default_rng(original).integers(0, 256, (12, 2))
    row |= dict(sha256=digest, hashes=hashes, height=int(rng.choice([300, 360, 720])))
    row |= dict(points=[points.tobytes()] * 3, num_bytes=int(rng.choice([1000, 2000])))
    found.append(empty | row | dict(motion=0.1, border_area=0.0))
  return found, which.tolist()


def test_of_planted_copies_the_best_is_kept_whatever_the_shards_and_blocks(block):
  rng = np.random.default_rng(2)
  originals = rng.integers(0, 2**64, (60, 3), np.uint64)
  is_held_out = [False, True, False, False]
  shards = [rows_of(rng, num, originals) for num in (90, 40, 0, 110)]
  rows = [row for found, _ in shards for row in found]
  of = [original for _, found in shards for original in found]
  held_out = np.repeat(is_held_out, [90, 40, 0, 110])
  decisions = decide.Decisions(
    lambda shard: [dict(row) for row in shards[shard][0]],
    is_held_out, decide.Rules(min_short_side=336), denylist.Lists([]), False,
  )  # fmt: skip
  decided = [row for shard in range(4) for row in decisions.rows(shard)]
  first = {original: of.index(original) for original in of}
  assert [row['dup_group'] for row in decided] == [first[original] for original in of]
  for original in set(of):
    members = [i for i, other in enumerate(of) if other == original]
    best = max(
      members,
      key=lambda i: (
        rows[i]['height'] >= 336, held_out[i], rows[i]['height'], rows[i]['num_bytes'], -i
      ),
    )  # fmt: skip
    assert [i for i in members if 'duplicate' not in decided[i]['reject']] == [best]


def test_nothing_is_no_group():
  nothing = np.zeros((0, 2), np.uint64)
  assert not len(duplicates.groups(nothing, np.zeros(0, duplicates.PRINT), lambda indices: []))


def test_proposals_in_files_are_each_pair_of_near_hashes_once_but_those_of_one_group(block):
  rng, num = np.random.default_rng(3), 60
  found = np.zeros(num, duplicates.PRINT)
  found['num_frames'] = [1] * 20 + [3] * 40
  found['parts'] = rng.integers(1, 2**63, found['parts'].shape, np.uint64)
  found['frames'][:20, 0] = rng.integers(1, 2**63, 20, np.uint64)
  found['frames'][20:] = rng.integers(1, 2**63, (40, 3), np.uint64)
  found['frames'][7, 0] = found['frames'][3, 0] ^ np.uint64(5)
  found['frames'][30, 1] = found['parts'][25, 2] ^ np.uint64(
    3
  )  # The whole is as a part of another.
  found['parts'][30, 5] = found['parts'][25, 4]
  found['frames'][59, 1] = found['frames'][21, 1] ^ proof.ODD
  found['parts'][41, 9] = found['parts'][40, 9]
  found['frames'][51, 2] = found['frames'][50, 2] ^ np.uint64(96)
  found['frames'][35, 2], found['frames'][36, 0] = 77, 77  # Of two frames' places.
  found['frames'][2, 0] = found['frames'][33, 1]  # An image and a video.
  found['frames'][38:40], found['parts'][38:40] = 0, 0  # Plain.
  groups = grouping.Groups(num)
  groups.join(np.array([40]), np.array([41]))
  first, second = duplicates.unique_pairs(found, groups)
  pairs = list(zip(first.tolist(), second.tolist(), strict=True))
  assert pairs == [(3, 7), (21, 59), (25, 30), (50, 51)]


def test_rows_joined_two_by_two_are_of_one_group():
  groups = grouping.Groups(9)
  for first, second in ((8, 7), (7, 6), (2, 1), (6, 5), (1, 5)):
    assert not groups.are_one(first, second)
    groups.join_two(first, second)
  assert groups.are_one(8, 2) and not groups.are_one(8, 3)
  np.testing.assert_array_equal(groups.all_names(), [0, 1, 1, 3, 4, 1, 1, 1, 1])


def test_columns_are_mapped_as_they_were_written():
  dtype = np.dtype([('one', np.uint32), ('many', np.int64, 2), ('points', proof.POINT, (3,))])
  rows = np.zeros(7, dtype)
  rows['one'], rows['many'] = np.arange(7), np.arange(14).reshape(7, 2)
  rows['points']['place'] = np.arange(42).reshape(7, 3, 2)
  found = columns.Columns(dtype)
  for part in (rows[:3], rows[:0], {name: rows[name][3:] for name in dtype.names}):
    found.append(part)
  assert len(found) == 7
  for name, column in found.mapped().items():
    np.testing.assert_array_equal(column, rows[name])
