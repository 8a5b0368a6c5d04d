"""Names in the tables of source files, read without importing them: for help, which waits for no
library."""

import ast
from typing import Any

from i2vgen_jax.process import paths


def names(file: str, table: str) -> list[str]:
  """The keys of a dict, or the entries of a tuple, that a file assigns at its top level.

  Args:
    file: such as 'i2vgen_jax/diffusion/sampler.py'.
    table: the name that is assigned; its keys or entries are written out.

  Raises:
    KeyError: the file assigns no such table.
  """
  for node in ast.parse((paths.ROOT / file).read_text(encoding='utf-8')).body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table:
      value: Any = node.value
      entries: list[Any] = value.keys if isinstance(value, ast.Dict) else value.elts
      return [ast.literal_eval(entry) for entry in entries]
  raise KeyError(f'{file} assigns no {table}')


def of_classes(folder: str, name: str) -> dict[str, str]:
  """The entries of all dicts of texts that classes in the files of a folder assign to a name."""
  found: dict[str, str] = {}
  for file in sorted((paths.ROOT / folder).glob('*.py')):
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
        found |= ast.literal_eval(node.value)
  return found
