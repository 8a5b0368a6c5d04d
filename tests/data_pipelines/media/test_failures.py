"""An exception of one example becomes a reason with its class and place; of many, the end."""

import collections

import numpy as np
import PIL.Image
import pytest

from data_pipelines import __main__ as commands
from data_pipelines.ingest import command as ingest
from data_pipelines.media import errors, failures, sandbox
from tests import corpora


class OddError(Exception):
  """Cannot be made of its arguments again, as some libraries' cannot."""

  def __init__(self, one, two):
    super().__init__(one + two)


def fail(kind):
  if kind == 'odd':
    raise OddError('a', 'b')
  if kind == 'deep':
    return fail(kind)
  raise AssertionError('frames of two sizes')


@pytest.mark.parametrize(
  ('kind', 'reason'), [('odd', 'OddError'), ('deep', 'RecursionError'), ('', 'AssertionError')]
)
def test_class_and_place_come_back_from_another_process(kind, reason):
  child = sandbox.Sandbox(fail)
  try:
    with pytest.raises(Exception) as raised:  # noqa: B017
      child(kind)
    lost = failures.of(raised.value)
    assert lost.reason == f'error:{reason}' and '(test_failures.py:' in lost.detail
    with pytest.raises(AssertionError):  # The same child goes on.
      child('')
    assert len(child.pids()) == 1
  finally:
    child.close()


def test_what_was_foreseen_keeps_its_reason():
  error = errors.DecodeError('open', 'empty')
  assert failures.of(error) is error
  assert failures.of(MemoryError('too large')).reason == 'memory'


@pytest.mark.parametrize(
  ('number', 'total', 'expected'),
  [(1, 1, False), (1, 2, False), (2, 3, True), (9, 100, False), (10, 100, True), (10, 200, False)],
)
def test_a_share_of_unforeseen_failures_is_a_bug(number, total, expected):
  counts = {'error:KeyError': number, 'open': 50}
  assert failures.is_bug(counts, total) == expected
  if expected:
    with pytest.raises(ValueError, match=f'{number} of {total} .* error:KeyError {number}. That'):
      failures.check(counts, total, 'x')


def test_five_reasons_are_named_and_the_others_counted():
  counts = collections.Counter({f'r{i}': 10 - i for i in range(7)})
  assert failures.commonest(counts) == 'r0 10, r1 9, r2 8, r3 7, r4 6 and 2 other reasons'


def divide(frame_HWC):
  """A hook that fails at dark pictures."""
  return 1 / min(255, int(frame_HWC.max()) // 100)


@pytest.mark.parametrize('num_dark', [1, 4])
def test_curate_goes_on_after_one_failure_and_ends_if_most_fail(tmp_path, num_dark, capsys):
  folder = tmp_path / 'in'
  folder.mkdir()
  for index in range(5):
    pixels = np.random.default_rng(index).integers(0, 99 if index < num_dark else 255, (64, 64, 3))
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{index}.png')
    (folder / f'{index}.txt').write_text('caption')
  directory = tmp_path / 'out'
  ingest.ingest(str(folder), str(directory), validation_fraction=0.0, num_processes=1)
  hook = '--hook=text_area=tests.data_pipelines.media.test_failures:divide'
  command = ['curate', f'--corpus={directory}', '--num_processes=1', '--min_short_side=16', hook]
  if num_dark == 1:
    commands.main(command)
    out = capsys.readouterr().out
    assert '1 could not be measured; most often: error:ZeroDivisionError 1' in out
    assert '4 of 5 kept' in out
    return
  for _ in range(2):  # What a bug has made is not kept.
    with corpora.ends_with_2('4 of 5 examples failed .* error:ZeroDivisionError 4.* a hook'):
      commands.main(command)
    assert not list(directory.glob('_measured/0*'))
