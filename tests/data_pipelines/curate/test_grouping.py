"""Rows sorted and grouped in blocks, whatever their size; copies as they were planted."""

import hashlib

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import csgraph

from data_pipelines.corpus import schema
from data_pipelines.curate import decide, denylist, duplicates, grouping


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
  """Rows of 3 hashes, each a copy of an original with a few bits changed; (rows, originals)."""
  empty = {name: None for name in (*schema.SIDECAR.names, *schema.CURATE.names)}
  which = rng.integers(0, len(originals), num)
  found = []
  for number, original in enumerate(which.tolist()):
    hashes = [int(h) ^ (1 << int(rng.integers(64))) for h in originals[original]]
    same_bytes = rng.random() < 0.3
    digest = hashlib.sha256(f'{original} {0 if same_bytes else number}'.encode()).hexdigest()
    row = dict(key=str(number), media='video', flags=[], width=640, span_start=0.0, span_end=5.0)
    row |= dict(sha256=digest, hashes=hashes, height=int(rng.choice([300, 360, 720])))
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
    rank = lambda i: (rows[i]['height'] >= 336, held_out[i], rows[i]['height'], -i)  # noqa: E731
    best = max(members, key=rank)
    assert [i for i in members if 'duplicate' not in decided[i]['reject']] == [best]


def test_nothing_is_no_group():
  none = np.zeros(0, np.uint64)
  found = duplicates.groups(np.zeros((0, 2), np.uint64), np.zeros((0, 3), np.uint64), none)
  assert len(found) == 0
