"""Command lines that messages tell people to run can be pasted into a shell, whatever the paths."""

import ast
import re
import shlex

import pytest

from data_pipelines.corpus import reader
from data_pipelines.index import table
from data_pipelines.stream import cache
from tests import commands

# The text of a message before a value that a shell would read: an argument of a command line.
ARGUMENT = re.compile(r'(python -m|gcloud|img2dataset|tensorboard --)[^:;,()]*(=| )$')
FILES = [
  path
  for package in ('data_pipelines', 'i2vgen_jax', 'launch', 'configs')
  for path in sorted((commands.ROOT / package).rglob('*.py'))
]


def unquoted(source):
  """Lines with an argument of a command line that is not the result of a function of shlex."""
  for node in ast.walk(ast.parse(source)):
    if not isinstance(node, ast.JoinedStr):
      continue
    text = ''
    for part in node.values:
      if isinstance(part, ast.Constant):
        text += str(part.value)
      elif isinstance(part, ast.FormattedValue):
        if ARGUMENT.search(text) and not ast.unparse(part.value).startswith('shlex.'):
          yield node.lineno
        text += 'VALUE'


def test_every_argument_of_a_printed_command_line_is_quoted():
  found = {str(path): lines for path in FILES if (lines := list(unquoted(path.read_text())))}
  assert not found


def test_an_argument_that_is_not_quoted_is_found():
  line = "f'{path} is new: run python -m data_pipelines ingest --input={%s} again'"
  assert list(unquoted(line % 'path')) == [1]
  assert not list(unquoted(line % 'shlex.quote(path)'))


@pytest.mark.parametrize('read', [reader.read_manifest, table.read_manifest, cache.read_manifest])
def test_what_makes_a_missing_folder_takes_its_path_with_spaces(read, tmp_path):
  folder = tmp_path / "Ann's clips"
  with pytest.raises(ValueError) as raised:
    read(folder)
  _, _, line = str(raised.value).partition('Make one: ')
  assert shlex.split(line)[-1] == f'--output={folder}'
