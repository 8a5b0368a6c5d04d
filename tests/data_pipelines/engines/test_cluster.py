"""A Ray cluster of three nodes that loses one in each stage writes what this machine writes."""

import json
import subprocess
import sys

import pytest

from tests import runs
from tests.data_pipelines.corpus import test_jobs


def has_namespaces():
  try:
    return subprocess.run(['unshare', '-n', 'ip', 'link', 'set', 'lo', 'up']).returncode == 0
  except FileNotFoundError:
    return False


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_in_each_stage_writes_the_same_bytes(tmp_path):
  pytest.importorskip('ray')
  pytest.importorskip('torch')
  if not has_namespaces():
    pytest.skip("unshare -n, a network namespace of the test's own, is not permitted here")
  command = ['unshare', '-n', sys.executable, '-m', 'tests.ray_cluster', str(tmp_path), '400']
  done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, timeout=3600)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  for stage in ('ingest', 'curate', 'score'):
    assert found[stage]['done_again'] == 0 < found[stage]['done']
    # What the node was at alone is done again; it had one processor.
    assert found[stage]['begun_again'] == found[stage]['lost'] and len(found[stage]['lost']) <= 1
  assert any(found[stage]['lost'] for stage in ('ingest', 'curate', 'score'))
  assert test_jobs.contents(tmp_path / 'ray') == test_jobs.contents(tmp_path / 'local')
