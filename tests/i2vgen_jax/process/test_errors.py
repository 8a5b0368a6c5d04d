"""Which exit code an error means, alone and among other processes, and what launchers do then."""

import errno
import os

import jax
import pytest

from data_pipelines.corpus import retries
from i2vgen_jax.process import errors, exit_codes, hosts
from i2vgen_jax.stored import run_config
from tests import tiny

XLA = jax.errors.JaxRuntimeError
ALONE = [
  (errors.TrainingError('the loss is nan'), exit_codes.FAILED),
  (FileNotFoundError(errno.ENOENT, 'absent', 'x'), exit_codes.USAGE),
  (PermissionError(errno.EACCES, 'denied', 'x'), exit_codes.USAGE),
  (KeyError('a'), exit_codes.BUG),
  (ValueError('shapes (500, 3) and (503, 4)'), exit_codes.BUG),
  (OSError('cannot identify image file'), exit_codes.BUG),
  (BrokenPipeError(errno.EPIPE, 'of who reads our output'), exit_codes.BUG),
  (XLA('INVALID_ARGUMENT: operand shapes differ'), exit_codes.BUG),
  (XLA('INTERNAL: stream did not block host until done'), exit_codes.DEVICE),
  (XLA('DATA_LOSS: uncorrectable ECC error'), exit_codes.DEVICE),
  (XLA('ABORTED: the program was cancelled'), exit_codes.DEVICE),
  (XLA('FAILED_PRECONDITION: the program continuator has halted'), exit_codes.DEVICE),
  (XLA('INTERNAL: Accelerator device halted prematurely'), exit_codes.DEVICE),
  (XLA('UNAVAILABLE: Connection reset by peer'), exit_codes.DEVICE),
  (ValueError('INTERNAL: Failed to fetch'), exit_codes.DEVICE),
  (ValueError('UNKNOWN: Gloo AllGather failed: Connection closed by peer'), exit_codes.DEVICE),
  (XLA('RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm'), exit_codes.USAGE),
  (retries.StorageError('no answer in 120 s'), exit_codes.STORAGE),
  (OSError('503 Service Unavailable'), exit_codes.STORAGE),
  (OSError(503, 'Service Unavailable'), exit_codes.STORAGE),
  (OSError('the request timed out'), exit_codes.STORAGE),
  (OSError(errno.ENOSPC, 'No space left on device'), exit_codes.STORAGE),
  (OSError(errno.EIO, 'Input/output error'), exit_codes.STORAGE),
  (OSError(errno.EDQUOT, 'Disk quota exceeded'), exit_codes.STORAGE),
  (ConnectionResetError(errno.ECONNRESET, 'reset'), exit_codes.STORAGE),
  (ConnectionError('closed'), exit_codes.STORAGE),
  (TimeoutError('no answer'), exit_codes.STORAGE),
  (ValueError('RESOURCE_EXHAUSTED: Error writing "a/w0.0" [tensorstore]'), exit_codes.STORAGE),
  (ValueError('UNAVAILABLE: HTTP response code: 503 [tensorstore]'), exit_codes.STORAGE),
  (ValueError("OUT_OF_RANGE: File too large [os_error_code='27']"), exit_codes.STORAGE),
  (
    ValueError("UNKNOWN: Error reading: Input/output error [os_error_code='5']"),
    exit_codes.STORAGE,
  ),
  (ValueError("NOT_FOUND: Failed to open [os_error_code='2']"), exit_codes.BUG),
  (OSError(errno.EFBIG, 'File too large'), exit_codes.STORAGE),
]
# Errors that mean another thing where there are others; the rest stay as they are.
AMONG_OTHERS = {
  'UNAVAILABLE: Connection reset by peer': exit_codes.LOST_PEER,
  'UNKNOWN: Gloo AllGather failed: Connection closed by peer': exit_codes.LOST_PEER,
  'DEADLINE_EXCEEDED: Barrier timed out': exit_codes.LOST_PEER,
  'FAILED_PRECONDITION: Gloo AllReduce failed: Connection closed by peer': exit_codes.LOST_PEER,
  'INTERNAL: heartbeat timeout of task 1': exit_codes.LOST_PEER,
  'INTERNAL: Accelerator device halted: barrier 3, connection 4': exit_codes.DEVICE,
}


def raised(error):
  """The error, with the traceback of a library."""
  try:
    exec(compile('raise error', 'library.py', 'exec'), {'error': error})
  except BaseException as caught:
    return caught


@pytest.mark.parametrize(('error', 'code'), ALONE, ids=repr)
def test_each_error_has_its_code(error, code, monkeypatch):
  assert errors.classify(raised(error))[0] == code
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  assert errors.classify(raised(error))[0] == AMONG_OTHERS.get(str(error), code)


@pytest.mark.parametrize(('text', 'code'), AMONG_OTHERS.items())
def test_another_process_that_is_gone_is_told_from_a_broken_device(text, code, monkeypatch):
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  assert errors.classify(raised(XLA(text)))[0] == code


def test_what_an_error_was_raised_from_counts():
  try:
    try:
      raise OSError(errno.ENOSPC, 'No space left on device')
    except OSError:
      exec(compile('raise RuntimeError("the save failed")', 'library.py', 'exec'))
  except RuntimeError as error:
    code, message = errors.classify(error)
  assert code == exit_codes.STORAGE and 'No space left' in message


def test_launchers_start_again_what_may_end_otherwise():
  again = {code for code in range(256) if exit_codes.restarts(code)}
  assert again == set(range(256)) - {0, 1, 2, 3}
  assert {42, 137, 143, 170, 171, 172, 173} < again
  without_a_step = {code for code in range(256) if exit_codes.restarts(code, progressed=False)}
  assert without_a_step == {exit_codes.PREEMPTED}


@pytest.mark.parametrize('function', ['makedirs', 'replace'])
def test_a_workdir_that_does_not_answer_at_the_start_is_no_mistake(function, tmp_path, monkeypatch):
  config = tiny.get_config('unused')

  def away(*arguments, **options):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(retries, 'DEADLINE_SECS', 0.2)
  monkeypatch.setattr(os, function, away)
  with pytest.raises(retries.StorageError) as caught:
    run_config.check(tmp_path, config)
    hosts.preflight(config, tmp_path, 0)
  assert errors.classify(caught.value)[0] == exit_codes.STORAGE
