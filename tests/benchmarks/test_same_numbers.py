"""What benchmarks/same_numbers says of two sets of arrays, and how it reads files."""

import json

import numpy as np
import PIL.Image
import pytest

from benchmarks.same_numbers import cases, collect, compare


def arrays():
  return {
    'params/kernel': np.arange(6, dtype=np.float32).reshape(2, 3),
    'params/bias': np.array([0.0, np.nan], np.float32),
    'losses/bucket': np.array('videos'),
    'step': np.array(3),
  }


def test_equal_arrays_are_counted():
  found = compare.compare(arrays(), arrays())
  assert found == (4, 24 + 8 + 24 + 8, 0, '', 0)


@pytest.mark.parametrize(
  'change, said',
  [
    (
      {'params/kernel': np.array([[0, 1, 2], [3, 4.5, 6]], np.float32)},
      'params/kernel[1, 1]: 4.0 -> 4.5 (2 of 6 values differ)',
    ),
    ({'params/bias': np.array([-0.0, np.nan], np.float32)}, 'params/bias[0]: 0.0 -> -0.0 (1 of 2'),
    ({'params/kernel': np.zeros((3, 2), np.float32)}, 'kernel: float32[2, 3] -> float32[3, 2]'),
    ({'params/kernel': np.zeros((2, 3))}, 'kernel: float32[2, 3] -> float64[2, 3]'),
    ({'losses/bucket': np.array('images')}, "losses/bucket: 'videos' -> 'images'"),
    ({'step': np.array(4)}, 'step[]: 3 -> 4 (1 of 1'),
    ({'step': None}, 'step: only in the reference'),
    ({'another': np.zeros(2)}, 'another: only in the candidate'),
  ],
)
def test_a_difference_is_named(change, said):
  candidate = {name: value for name, value in (arrays() | change).items() if value is not None}
  found = compare.compare(arrays(), candidate)
  assert found.num_different == 1 and said in found.first


def test_the_first_difference_is_that_of_the_first_array():
  candidate = arrays() | {'step': np.array(4), 'params/bias': np.ones(2, np.float32)}
  found = compare.compare(arrays(), candidate)
  assert found.num_different == 2 and found.first.startswith('params/bias[0]: 0.0 -> 1.0 (2 of 2')


def test_what_is_left_out_by_name_is_not_compared_and_counted():
  candidate = arrays() | {'step': np.array(4)}
  found = compare.compare(arrays(), candidate, ['st', 'params/b'])
  assert (found.num_arrays, found.num_different, found.num_left_out) == (2, 0, 2)


def test_metrics_are_compared_but_for_times(tmp_path):
  rows = [
    {'step': 1, 'loss': 0.5, 'bucket': 'videos', 'step_secs': 9.0},
    {'step': 2, 'eval_loss': 2.0},
  ]
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  found = {part: list(values) for part, values in collect._metrics(tmp_path / 'metrics.jsonl')}
  assert found == {'losses': ['loss/1', 'bucket/1'], 'eval_loss': ['eval_loss/2']}


def test_files_are_read_by_their_content_and_as_bytes(tmp_path):
  (tmp_path / 'out/sub').mkdir(parents=True)
  PIL.Image.new('RGB', (4, 2), 'red').save(tmp_path / 'out/sub/a.png')
  (tmp_path / 'out/b.json').write_text('{"x": [1, {"y": "z"}], "empty": []}')
  [(name, found)] = collect.files(tmp_path, 'out').items()
  assert name == 'out' and found['sub/a.png/pixels'].shape == (2, 4, 3)
  leaves = {name: str(value) for name, value in found.items() if name.startswith('b.json')}
  del leaves['b.json/bytes']
  assert leaves == {'b.json/x/0': '1', 'b.json/x/1/y': '"z"', 'b.json/empty': '[]'}
  assert 'sub/a.png/bytes' in found
  (tmp_path / 'nothing').mkdir()
  with pytest.raises(ValueError, match='holds no files'):
    collect.files(tmp_path, 'nothing')


def test_a_case_brings_those_that_it_reads():
  assert cases.with_needs(['cascade']) == ['base', 'refine', 'cascade']
  with pytest.raises(ValueError, match='--only=nonsense is unknown; known: corpus, base'):
    cases.with_needs(['nonsense', 'base'])
