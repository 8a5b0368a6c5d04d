"""Logs keep every line: on a disk over a kill, in a bucket over appends and processes."""

import pytest
from etils import epath

from data_pipelines.corpus import json_lines

ROWS = [dict(step=i, note=f'\u2028 {i}') for i in range(7)]


@pytest.fixture(params=['disk', 'gs'])
def folder(request, tmp_path):
  if request.param == 'gs':
    request.getfixturevalue('gs_bucket')
    return epath.Path('gs://held/run')
  return epath.Path(tmp_path)


def test_all_lines_of_all_processes_are_read_in_order(folder, monkeypatch):
  monkeypatch.setattr(json_lines, 'MAX_LINES', 2)
  path = folder / 'metrics.jsonl'
  assert json_lines.read(path) == []
  for first in (0, 3):  # Two processes, one after the other.
    log = json_lines.Log(path)
    for row in ROWS[first : first + 3]:
      log.append(row)
  json_lines.Log(str(path)).append(ROWS[6])
  assert json_lines.read(path) == ROWS


def test_a_line_that_a_kill_cut_off_is_left_out_and_spoils_no_other(tmp_path, caplog):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 0}\n{"step": 1, "lo')
  json_lines.Log(path).append(dict(step=2))
  assert json_lines.read(path) == [dict(step=0), dict(step=2)]
  assert 'line 2 is no JSON' in caplog.text


def test_a_copy_of_a_buckets_log_goes_on_as_a_folder(tmp_path):
  folder = tmp_path / 'metrics.jsonl'
  folder.mkdir()
  (folder / '0-a.jsonl').write_text('{"step": 0}\n')
  json_lines.Log(folder).append(dict(step=1))
  assert json_lines.read(folder) == [dict(step=0), dict(step=1)]
