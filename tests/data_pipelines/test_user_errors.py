"""What a command says when it ends."""

import errno

import botocore.exceptions
import gcsfs.retry
import google.auth.exceptions
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import user_errors
from data_pipelines.corpus import reader, retries
from i2vgen_jax.process import exit_codes


def test_an_error_hands_no_control_characters_to_the_terminal(capsys):
  with pytest.raises(SystemExit):
    user_errors.fail('the key \x1b[2J\u202egpj.exe\r\udcff is bad:\n  two lines')
  shown = capsys.readouterr().err
  assert shown == 'error: the key \\x1b[2J\\u202egpj.exe\\r\\xff is bad:\n  two lines\n'


@pytest.mark.parametrize(
  'error',
  [
    OSError('Forbidden: https://storage/held\nno access to held'),
    gcsfs.retry.HttpError({'code': 401, 'message': 'Anonymous caller has no access to held'}),
    botocore.exceptions.NoCredentialsError(),
    google.auth.exceptions.DefaultCredentialsError('no credentials'),
  ],
)
def test_a_bucket_that_lets_nobody_in_is_said_in_one_line(error):
  said = user_errors.message(error)
  assert 'Log in' in said and '\n' not in said


@pytest.mark.parametrize(
  'error', [OSError('503'), gcsfs.retry.HttpError({'code': 503, 'message': 'away'}), KeyError('x')]
)
def test_other_errors_are_not(error):
  assert user_errors.message(error) is None


@pytest.mark.parametrize(
  'error',
  [
    retries.StorageError('no answer'),
    OSError(errno.ENOSPC, 'No space left'),
    OSError(errno.EIO, ''),
  ],
)
def test_storage_that_fails_ends_a_command_with_its_own_code(error, monkeypatch, capsys):
  assert user_errors.STORAGE == exit_codes.STORAGE

  def fail(*_):
    raise error

  monkeypatch.setattr(reader, 'read_manifest', fail)
  with pytest.raises(SystemExit) as raised:
    commands.main(['verify', '--corpus=x'])
  assert raised.value.code == exit_codes.STORAGE
  assert capsys.readouterr().err.startswith('error: storage fails: ')
