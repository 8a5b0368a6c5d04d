"""What a command says when it ends."""

import ast
import errno
import pathlib
import re

import botocore.exceptions
import gcsfs.retry
import google.auth.exceptions
import pytest

from data_pipelines import __main__ as commands
from data_pipelines import user_errors
from data_pipelines.corpus import reader, retries
from i2vgen_jax.process import exit_codes
from tests import commands as commands_lib


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


@pytest.mark.parametrize('use', [pathlib.Path.read_bytes, lambda path: (path / 'x').read_bytes()])
@pytest.mark.parametrize('name', ['folder', 'file', 'absent'])
def test_the_reason_of_an_error_has_no_number_and_no_path(use, name, tmp_path):
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'file').write_text('')
  if name == 'file' and use is pathlib.Path.read_bytes:
    return  # Which works.
  with pytest.raises(OSError) as raised:
    use(tmp_path / name)
  said = user_errors.reason(raised.value)
  assert said.startswith('it ') and str(tmp_path) not in said and 'Errno' not in said


def test_the_reason_of_a_full_disk_is_the_systems():
  assert user_errors.reason(OSError(errno.ENOSPC, 'No space left', '/x')) == 'No space left'
  assert user_errors.reason(ValueError('row 3 is none')) == 'row 3 is none'


def printed_whole(source):
  """Lines where an `except` of OSErrors puts the error itself into a text."""
  for handler in ast.walk(ast.parse(source)):
    if not isinstance(handler, ast.ExceptHandler) or not handler.type:
      continue
    if not re.search(r'OSError|FileNotFoundError|IsADirectoryError', ast.unparse(handler.type)):
      continue
    for node in ast.walk(handler):
      if isinstance(node, ast.FormattedValue) or ast.unparse(node).startswith('str('):
        text = ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)
        is_alone = not ast.unparse(handler).count('user_errors.message(')
        if is_alone and text in (str(handler.name), f'str({handler.name})'):
          yield node.lineno


def test_no_message_has_an_errors_number_and_its_path_again():
  files = [
    path
    for package in ('data_pipelines', 'i2vgen_jax', 'launch')
    for path in sorted((commands_lib.ROOT / package).rglob('*.py'))
  ]
  found = {path.name: lines for path in files if (lines := list(printed_whole(path.read_text())))}
  assert not found
