"""Runs the shell blocks of all pages as a reader would, in order, in a fresh folder.

  python docs/run_blocks.py [--minutes=N] [--list] [--folder=DIR] [PAGE ...]

A comment before each block, which no reader sees, says what is done with it:

  <!-- run -->                         it runs, within a few minutes
  <!-- run DIR=tutorial/source -->     so too, with a word of the block replaced
  <!-- run long: 12 minutes -->        only with --minutes=12 or more
  <!-- not run: needs a TPU -->        and why

The folder becomes a copy of the repository's files; what is in it already stays, such as a
quickstart that has been made. Each block is a bash script there; its output is in
FOLDER/blocks.log. Exit code 1 if one fails, and what comes after it runs all the same.
"""

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHELL = ('bash', 'sh', 'shell', 'console')
COMMAND = re.compile(r'^(python|bash|pip|git) ', re.MULTILINE)  # In a block without a language.
MARK = re.compile(
  r'<!-- (?:run(?P<words>(?: \w+=\S+)*)(?: long: (?P<long>(?P<minutes>\d+) minutes?.*))?'
  r'|not run: (?P<why>.+)) -->'
)


@dataclasses.dataclass(frozen=True)
class Block:
  """A shell block.

  Attributes:
    page: file of the repository.
    line: of its first line, from 1.
    text: of the block.
    mark: the comment before it; None if there is none.
  """

  page: str
  line: int
  text: str
  mark: re.Match | None

  @property
  def script(self) -> str:
    """The text with its words replaced."""
    text = self.text
    for item in (self.mark['words'] or '').split() if self.mark else ():
      word, _, value = item.partition('=')
      text = re.sub(rf'\b{word}\b', value, text)
    return text

  def skipped(self, minutes: float) -> str:
    """Why it does not run in so many minutes; '' if it does."""
    if not self.mark:
      return 'it is not marked'
    return self.mark['why'] or (
      f'takes {self.mark["long"]}' if int(self.mark['minutes'] or 0) > minutes else ''
    )


def blocks_of(page: str, text: str) -> list[Block]:
  """The shell blocks of a page, in order."""
  return list(_blocks(page, text.split('\n')))


def _blocks(page: str, lines: Sequence[str]) -> Iterator[Block]:
  before, number = '', 0
  while number < len(lines):
    fence = re.fullmatch(r'(```+)(\w*).*', lines[number])
    if not fence:
      before, number = lines[number].strip() or before, number + 1
      continue
    end = lines.index(fence[1], number + 1)
    text = '\n'.join(lines[number + 1 : end])
    if fence[2] in SHELL or (not fence[2] and COMMAND.search(text)):
      yield Block(page, number + 2, text, MARK.fullmatch(before))
    before, number = '', end + 1


def pages() -> list[str]:
  """The tutorial, the README with the quickstart, and the other pages, in this order."""
  first = ['docs/tutorial.md', 'README.md', 'data_pipelines/README.md', 'docs/commands.md']
  found = sorted(path for folder in ('docs', 'launch', '') for path in (ROOT / folder).glob('*.md'))
  names = [path.relative_to(ROOT).as_posix() for path in found]
  return [*first, *(name for name in names if name not in first)]


def copy_repository(folder: pathlib.Path) -> None:
  """Copies the files that git knows, and new ones that it does not ignore."""
  listed = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
  done = subprocess.run(listed, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
  for name in filter(None, done.stdout.split('\0')):
    if (ROOT / name).is_file():
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name)


def run(block: Block, folder: pathlib.Path, log: pathlib.Path) -> int:
  """Runs a block, with this interpreter as `python`; returns its exit code."""
  path = f'{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
  with log.open('a') as file:
    file.write(f'\n=== {block.page}:{block.line}\n{block.script}\n---\n')
    file.flush()
    command = ['bash', '-euo', 'pipefail', '-c', block.script]
    streams = dict(stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
    return subprocess.run(
      command, cwd=folder, env=os.environ | {'PATH': path}, **streams
    ).returncode


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs or lists the blocks; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('pages', nargs='*', metavar='PAGE', help='such as README.md; default all')
  parser.add_argument('--minutes', type=float, default=2, help='the longest that a block may take')
  parser.add_argument('--list', action='store_true', help='run nothing')
  parser.add_argument('--folder', help='to run in; default a new one')
  options = parser.parse_args(arguments)
  folder = pathlib.Path(options.folder or tempfile.mkdtemp(prefix='blocks_')).absolute()
  if not options.list:
    folder.mkdir(parents=True, exist_ok=True)
    copy_repository(folder)
    print(f'in {folder}; the log is blocks.log', flush=True)
  failed = 0
  for page in options.pages or pages():
    for block in blocks_of(page, (ROOT / page).read_text(encoding='utf-8')):
      place, why = f'{page}:{block.line}', block.skipped(options.minutes)
      if why:
        print(f'not run  {place}: {why}', flush=True)
      elif options.list:
        print(f'runs     {place}')
      else:
        started = time.monotonic()
        code = run(block, folder, folder / 'blocks.log')
        verdict = 'ok      ' if code == 0 else f'FAILED {code}'
        print(f'{verdict} {place}, {time.monotonic() - started:.0f} s', flush=True)
        failed += code != 0
  return min(failed, 1)


if __name__ == '__main__':
  sys.exit(main())
