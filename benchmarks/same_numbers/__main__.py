"""Proof that a change of structure changes no number: a commit and the work tree, to the bit.

  python -m benchmarks.same_numbers REV [--only=base,lora] [--except=base/opt_state]

Both trees run the same commands with shrunk versions of the shipped configs, in this Python
environment and on a corpus that REV makes: training (base and refinement, images and videos, LoRA,
from a cache, accumulation, eight CPU devices), sampling, the cascade, exports. What they leave is
read without code of ours and compared: batches, losses, parameters, averages, optimizer states,
held-out losses, frames, records, bytes of files.

Prints a line per comparison, and exits with 0 if all are equal, 1 if not, 2 for a mistake in the
arguments or a case that REV does not run. REV's results are kept in --cache: a second time only the
work tree runs. Each process has one core, for XLA's sums depend on the number of its threads.
"""

import argparse
import os
import pathlib
import resource
import shutil
import sys
import tempfile
import time

import filelock

from benchmarks.same_numbers import cases, compare, trees
from benchmarks.same_numbers import side as side_lib

CACHE = pathlib.Path(tempfile.gettempdir()) / 'i2vgen_jax_same_numbers'
PICTURE = 'docs/first_frame.png'


def main() -> int:
  """Runs both sides and prints the comparisons; returns the exit code."""
  options = _parse()
  started = time.monotonic()
  os.environ['JAX_PLATFORMS'] = 'cpu'
  try:
    names = cases.with_needs(options.only or list(cases.CASES))
    commit = trees.commit_of(options.revision)
  except ValueError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  entry = options.cache / f'{commit[:12]}-{trees.environment()}'
  entry.mkdir(parents=True, exist_ok=True)
  with filelock.FileLock(f'{entry}.lock'):
    reference = _reference(entry, commit, options.cache)
    missing = reference.run([cases.CORPUS]) or reference.run(
      [name for name in names if name != cases.CORPUS]
    )
  _print_failures(options.revision, missing)
  if cases.CORPUS in missing:
    return 2
  names = [name for name in names if name not in missing]
  folder = pathlib.Path(options.keep or tempfile.mkdtemp(prefix='same_numbers_'))
  try:
    ours = _work_tree(folder, entry, options)
    failed = ours.run(names)
    num_different = _compare(reference, ours, names, failed, options.left_out)
  finally:
    if not options.keep:
      shutil.rmtree(folder)
  _print_failures('work tree', failed)
  what = f'{num_different} comparisons differ' if num_different else 'all that ran is equal'
  if failed or missing:
    what += f', {len(failed | missing)} cases failed'
  spent = resource.getrusage(resource.RUSAGE_CHILDREN)
  print(
    f'{options.revision} ({commit[:12]}) -> work tree: {what}; '
    f'{time.monotonic() - started:.0f} s, {spent.ru_utime + spent.ru_stime:.0f} CPU s'
  )
  if missing:
    return 2
  return 1 if num_different or failed else 0


def _parse():
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.same_numbers',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  split = lambda text: [item for item in text.split(',') if item]  # noqa: E731
  renames = lambda text: dict(item.split('=') for item in split(text))  # noqa: E731
  parser.add_argument('revision', metavar='REV', help='commit, tag or branch to compare with')
  parser.add_argument(
    '--only', type=split, default=[], metavar='CASE,..', help=f'of {", ".join(cases.CASES)}'
  )
  parser.add_argument(
    '--except', dest='left_out', type=split, default=[], metavar='NAME,..',
    help='leave out what is printed with such a beginning: a wanted change of numbers',
  )  # fmt: skip
  parser.add_argument(
    '--renamed', type=renames, default={}, metavar='OLD=NEW,..',
    help="fields of a config that have another name in the work tree's",
  )  # fmt: skip
  parser.add_argument('--cache', type=pathlib.Path, default=CACHE, help=f"REV's results ({CACHE})")
  parser.add_argument('--keep', metavar='DIR', help="new folder for the work tree's runs and logs")
  return parser.parse_args()


def _reference(entry, commit, cache):
  tree, runs = entry / 'tree', entry / 'runs'
  if not tree.exists():
    part = entry / 'tree.part'
    shutil.rmtree(part, ignore_errors=True)
    trees.check_out(commit, part)
    part.rename(tree)
  place = cases.Place(runs, runs, tree / PICTURE)
  return side_lib.Side('REV', tree, place, entry / 'results', cache / 'compiled', {})


def _work_tree(folder, entry, options):
  trees.copy_work_tree(folder / 'tree')
  place = cases.Place(folder / 'runs', entry / 'runs', entry / 'tree' / PICTURE)
  return side_lib.Side(
    'work tree', folder / 'tree', place, folder / 'results', options.cache / 'compiled',
    options.renamed,
  )  # fmt: skip


def _compare(reference, ours, names, failed, left_out):
  """Prints a line per comparison of the cases that ran; returns how many differ."""
  num_different = 0
  for name in names:
    if name in failed:
      continue
    ours_of = dict(ours.arrays(name))
    theirs_of = dict(reference.arrays(name))
    for comparison in [*theirs_of, *(other for other in ours_of if other not in theirs_of)]:
      full = f'{name}/{comparison}'
      result = compare.compare(
        *(
          {f'{full}/{inner}': value for inner, value in side.get(comparison, {}).items()}
          for side in (theirs_of, ours_of)
        ),
        left_out,
      )
      num_different += result.num_different > 0
      _print_result(full, result)
  return num_different


def _print_result(full, result):
  outcome = 'DIFFERENT' if result.num_different else 'equal'
  if not result.num_arrays:
    outcome = 'left out'
  line = f'{outcome:9} {full:26} {result.num_arrays:5} arrays {result.num_bytes:12,} bytes'
  if result.num_left_out:
    line += f'; {result.num_left_out} left out by --except'
  if result.num_different:
    line += f'; {result.num_different} differ, the first: {result.first}'
  print(line, flush=True)


def _print_failures(where, failed):
  for name, error in failed.items():
    print(f'FAILED    {name} in {where}: {error}', flush=True)


if __name__ == '__main__':
  sys.exit(main())
