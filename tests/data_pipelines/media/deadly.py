"""What takes the place of a decoder and breaks its process; in a file that a child imports soon."""

import hashlib
import os
import signal
import time

import numpy as np

from data_pipelines.media import errors, sandbox
from data_pipelines.stream import decoder as decoder_lib
from data_pipelines.stream import sandboxed_decoder


class Deadly(sandboxed_decoder._Fill):
  """Of a child that dies at a file, as native code does of what it was not made for.

  The file's SHA-256 is given; None is every file.
  """

  def __init__(self, fields, sha256=None):
    super().__init__(fields)
    self.sha256 = sha256

  def prepare(self):
    super().prepare()
    self._decoder._check = self.check

  def check(self, data):
    decoder_lib.Decoder._check(self._decoder, data)  # Raises of what is in quarantine.
    if self.sha256 in (None, hashlib.sha256(data).hexdigest()):
      os.kill(os.getpid(), signal.SIGSEGV)


def hoard(size):
  """Keeps so many bytes, as a leak does."""
  hoard.kept = np.ones(size, np.uint8)
  return os.getpid()


def misbehave(data, how=''):
  """In place of a decoder that damaged media breaks."""
  if data == b'crash':
    os.kill(os.getpid(), signal.SIGSEGV)
  if data == b'hang':
    time.sleep(600)
  if data == b'greedy':
    np.empty(sandbox.MAX_MEMORY + 2**20, np.uint8)
  while data == b'spin':
    pass
  if data == b'bad':
    raise errors.DecodeError('open', 'bad')
  if data == b'bug':
    raise KeyError('ours')
  return how, os.getpid()
