"""Children of a parent that is killed, and of a thread that ends."""

import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
# The children hang in C that holds the lock of Python: they read no pipe and see no signal.
HANG = (
  'import ctypes, os; from data_pipelines import children; children.follow({parent}); '
  'print(os.getpid(), flush=True); ctypes.PyDLL(None).sleep(600)'
)
PARENT = """
import os, sys, threading, time
from concurrent import futures
from data_pipelines import children
from data_pipelines.media import sandbox
from tests.data_pipelines import test_children as t

started = []
code = t.HANG.format(parent=os.getpid())
thread = threading.Thread(
  target=lambda: started.append(children.start([sys.executable, '-c', code]))
)
thread.start()
thread.join()
box = sandbox.Sandbox(t.hang)
threading.Thread(target=box, args=(b'',), daemon=True).start()
while not box.pids(): time.sleep(0.01)
print(*box.pids(), flush=True)
time.sleep(1.0)
print(started[0].poll(), flush=True)
time.sleep(600)
"""


def hang(data):
  import ctypes

  print('hangs', flush=True)
  ctypes.PyDLL(None).sleep(600)


def is_alive(pid):
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return False
  return 'State:\tZ' not in status


def test_children_that_hang_end_within_seconds_of_a_parent_that_is_killed():
  parent = subprocess.Popen(
    [sys.executable, '-c', PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
  )
  lines = [parent.stdout.readline() for _ in range(4)]
  assert 'None\n' in lines  # The end of the thread that started it is no reason to die.
  pids = [int(line) for line in lines if line.strip().isdigit()]
  if 'hangs\n' not in lines:
    assert parent.stdout.readline() == 'hangs\n'
  assert len(pids) == 2 and all(map(is_alive, pids))
  parent.kill()
  parent.wait()
  deadline = time.monotonic() + 5
  while any(map(is_alive, pids)) and time.monotonic() < deadline:
    time.sleep(0.05)
  alive = [pid for pid in pids if is_alive(pid)]
  for pid in alive:
    os.kill(pid, 9)
  parent.stdout.close()
  assert not alive


def test_a_child_whose_parent_is_gone_already_ends():
  code = 'from data_pipelines import children; children.follow(1 << 22); print("lives")'
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == -9 and not done.stdout
