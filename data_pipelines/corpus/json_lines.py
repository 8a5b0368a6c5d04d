"""Logs of JSON objects, a line each, that a run appends to: on a disk or in a bucket.

A bucket cannot append. There a log is a folder under the file's name, of files that hold MAX_LINES
lines each; the newest is written again with each line. Their names sort as they were written, so
`cat FOLDER/*` gives the lines in order.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from data_pipelines.corpus import retries, storage

MAX_LINES = 100


class Log:
  """Appends to a log; several processes may, one after the other.

  Args:
    path: of the file, or of the folder in a bucket.
  """

  def __init__(self, path: epath.PathLike):
    self._path = epath.Path(path)
    self._is_file = storage.is_local(path) and not self._path.is_dir()
    self._lock = threading.Lock()
    self._lines: list[str] = []
    self._part = self._path
    self._ended = False  # Whether the last line of an earlier process is known to be whole.

  def append(self, row: Mapping[str, Any]) -> None:
    """Adds an object that JSON can hold; raises StorageError if it cannot be written."""
    line = json.dumps(row) + '\n'
    with self._lock:
      if self._is_file:
        self._append_to_file(line)
      else:
        self._append_to_folder(line)

  def _append_to_file(self, line: str) -> None:
    if not self._ended:
      line, self._ended = _separator(self._path) + line, True
    with self._path.open('a') as file:
      file.write(line)

  def _append_to_folder(self, line: str) -> None:
    if not self._lines:
      self._part = self._path / f'{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl'
    self._lines.append(line)
    storage.write_bytes(self._part, ''.join(self._lines).encode())
    if len(self._lines) == MAX_LINES:
      self._lines = []


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """All objects of a log in the order of writing; [] if there is none.

  A line that was cut off as its writer was killed is left out, with a warning.
  """
  path = epath.Path(path)
  parts = [path] if path.is_file() else []
  if path.is_dir():
    parts += sorted(path.glob('*.jsonl'))
  texts = storage.in_threads(lambda part: retries.call(part.read_text), parts)
  rows = []
  for part, text in zip(parts, texts, strict=True):
    for number, line in enumerate(text.splitlines(), 1):
      try:
        rows.append(json.loads(line))
      except ValueError:
        logging.warning('%s, line %d is no JSON and is left out.', part, number)
  return rows


def _separator(path: epath.Path) -> str:
  """What must precede the next line: a line end if the last line was cut off."""
  try:
    with path.open('rb') as file:
      if not file.seek(0, 2):
        return ''
      file.seek(-1, 1)
      return '' if file.read(1) == b'\n' else '\n'
  except FileNotFoundError:
    return ''
