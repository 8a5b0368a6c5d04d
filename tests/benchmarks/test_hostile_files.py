"""What benchmarks/hostile_files sees, and that reading hostile files does nothing of it."""

import sys

from benchmarks import hostile_files

BETRAYAL = """
import pathlib, socket, subprocess, sys, time
decoy, port, root = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
open(decoy, 'rb').read(1)
listens = socket.socket(type=socket.SOCK_DGRAM)
listens.bind(('127.0.0.1', 0))
socket.create_connection(('127.0.0.1', port)).close()
subprocess.run(['gs'])
(root / 'PWNED.jpg').touch()
time.sleep(0.5)
"""


def test_hostile_files_open_connect_to_run_and_write_nothing():
  faults, lines = hostile_files.attack(count=50, seed=1)
  assert not faults and 'nothing was opened' in lines[-1]
  assert lines[0].startswith('50 files: exit code 2') and 'rejected' in lines[1]


def test_whatever_is_done_beside_reading_is_seen(tmp_path):
  watch = hostile_files.Watch(tmp_path / 'i2vgen_jax')
  arguments = [str(watch.decoy), str(watch.port), str(watch.root)]
  code, text = watch.run([sys.executable, '-c', BETRAYAL, *arguments])
  assert code == 0, text
  found = ' '.join(watch.close())
  for part in ('decoy.mp4 was opened', 'was connected to', 'socket: udp', 'ran_gs', 'PWNED.jpg'):
    assert part in found
