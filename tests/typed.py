"""The share of public functions whose every argument and result are annotated.

  python -m tests.typed [--list] [--floor=0.NN]

Public are the functions and classes of a file, and the methods of such classes, whose names do not
begin with _; of the names in double underscores, __init__ and __call__. Functions within functions
are not counted; properties are. self and cls need no annotation, and __init__ none of its result.
Below the floor it exits 1: raise FLOOR when the share rises, so that it never falls again.
"""

import argparse
import ast
import collections
import pathlib
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ('i2vgen_jax', 'data_pipelines')
FLOOR = 0.51


def public_functions(
  body: list[ast.stmt], owner: str = ''
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
  """Dotted name and node of each public function in a module's or a class's statements."""
  for node in body:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      if not node.name.startswith('_') or (owner and node.name in ('__init__', '__call__')):
        yield owner + node.name, node
    elif isinstance(node, ast.ClassDef):
      if not node.name.startswith('_'):
        yield from public_functions(node.body, f'{owner}{node.name}.')
    else:  # What stands under an if, a try, a with.
      for field in ('body', 'orelse', 'finalbody'):
        yield from public_functions(getattr(node, field, []), owner)
      for handler in getattr(node, 'handlers', []):
        yield from public_functions(handler.body, owner)


def is_typed(function: ast.FunctionDef | ast.AsyncFunctionDef, is_method: bool) -> bool:
  """True if every argument (but self or cls) and the result (but of __init__) are annotated."""
  arguments = function.args
  listed = [*arguments.posonlyargs, *arguments.args]
  decorators = {getattr(node, 'id', '') for node in function.decorator_list}
  if is_method and 'staticmethod' not in decorators:
    listed = listed[1:]
  listed += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
  result = function.returns is not None or (is_method and function.name == '__init__')
  return result and all(argument.annotation is not None for argument in listed)


def count(source: str) -> dict[str, bool]:
  """Public functions of a file's text, by name and line -> whether they are fully annotated."""
  return {
    f'{name}:{node.lineno}': is_typed(node, '.' in name)
    for name, node in public_functions(ast.parse(source).body)
  }


def main(arguments: list[str]) -> int:
  """Prints the shares; the process's exit code."""
  parser = argparse.ArgumentParser(prog='python -m tests.typed', description=__doc__)
  parser.add_argument('--list', action='store_true', help='files with the most to annotate')
  parser.add_argument('--floor', type=float, default=FLOOR, help=f'exit 1 below it ({FLOOR})')
  options = parser.parse_args(arguments)
  untyped, totals = {}, collections.Counter()
  for package in PACKAGES:
    for path in sorted((ROOT / package).rglob('*.py')):
      counted = count(path.read_text())
      untyped[path] = [name for name, typed in counted.items() if not typed]
      for key in (package, 'in all'):
        totals[key, 'functions'] += len(counted)
        totals[key, 'typed'] += len(counted) - len(untyped[path])
  for key in (*PACKAGES, 'in all'):
    typed, functions = totals[key, 'typed'], totals[key, 'functions']
    print(f'{key}: {typed} of {functions} public functions annotated, {typed / functions:.1%}')
  if options.list:
    for path, names in sorted(untyped.items(), key=lambda item: -len(item[1])):
      if names:
        print(f'{path.relative_to(ROOT)}: {len(names)}: {" ".join(names)}')
  if totals['in all', 'typed'] < options.floor * totals['in all', 'functions']:
    print(f'below the floor of {options.floor:.0%}: see --list', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
