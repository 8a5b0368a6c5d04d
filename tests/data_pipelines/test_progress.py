"""What a command shows while it works: on a terminal a bar, elsewhere a line now and then."""

import io
import re

import pytest

from data_pipelines import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  """Seconds that the test sets."""
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def test_elsewhere_a_line_comes_after_a_while_and_then_now_and_then(clock, monkeypatch):
  monkeypatch.setattr(progress.sys, 'stderr', io.StringIO())
  with progress.Progress(100, 'frame', 'decoding') as shown:
    for _ in range(90):
      clock[0] += 1
      shown.update()
  lines = progress.sys.stderr.getvalue().splitlines()
  # After 3 s, then every 30 s.
  assert [re.search(r'decoding: (\d+) of 100 frames', line)[1] for line in lines] == [
    '3', '33', '63'
  ]  # fmt: skip
  assert all(re.match(r'\d\d-\d\d \d\d:\d\d:\d\d decoding', line) for line in lines)
  assert [line.split(', ')[1] for line in lines] == ['97 s left', '67 s left', '37 s left']


def test_what_is_over_at_once_shows_nothing(clock, monkeypatch):
  for stderr in (io.StringIO(), Terminal()):
    monkeypatch.setattr(progress.sys, 'stderr', stderr)
    assert list(progress.over('abc', 3, 'letter')) == ['a', 'b', 'c']
    assert stderr.getvalue().strip() == ''


def test_on_a_terminal_it_is_a_bar(monkeypatch):
  monkeypatch.setattr(progress.sys, 'stderr', Terminal())
  monkeypatch.setattr(progress, 'FIRST_SECS', 0)
  assert list(progress.over('abc', 3, 'letter', 'reading')) == ['a', 'b', 'c']
  text = progress.sys.stderr.getvalue()
  assert 'reading' in text and '3/3' in text and 'letter/s' in text and 'left' not in text


@pytest.mark.parametrize(
  ('secs', 'text'), [(42, '42 s'), (180, '3 min'), (9000, '2.5 h'), (200_000, '2.3 d')]
)
def test_seconds_are_spelled_for_people(secs, text):
  assert progress.spell_secs(secs) == text
