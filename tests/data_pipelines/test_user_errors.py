"""What a command says when it ends."""

import pytest

from data_pipelines import user_errors


def test_an_error_hands_no_control_characters_to_the_terminal(capsys):
  with pytest.raises(SystemExit):
    user_errors.fail('the key \x1b[2J\u202egpj.exe\r\udcff is bad:\n  two lines')
  shown = capsys.readouterr().err
  assert shown == 'error: the key \\x1b[2J\\u202egpj.exe\\r\\xff is bad:\n  two lines\n'
