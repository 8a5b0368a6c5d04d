"""Commands on corpora: python -m data_pipelines <command> --help."""

import argparse
import logging
import shlex
import sys
import time

from data_pipelines import demo_corpus, user_errors
from data_pipelines.caption import command as caption
from data_pipelines.corpus import jobs
from data_pipelines.curate import command as curate
from data_pipelines.demo_corpus import kinds
from data_pipelines.engines import choice
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import inspect, verify
from data_pipelines.report import command as report
from data_pipelines.stream import command as stream

MOVED = ('score', 'precompute')  # They need JAX.


def make_parser() -> argparse.ArgumentParser:
  """All commands, with their flags."""
  parser = user_errors.Parser(prog='python -m data_pipelines', description=__doc__)
  commands = parser.add_subparsers(required=True, metavar='command')
  for command in (
    _add_demo,
    inspect.add_command,
    ingest.add_command,
    curate.add_command,
    caption.add_command,
    verify.add_command,
    index.add_command,
    report.add_command,
    stream.add_peek,
    stream.add_seen,
    stream.add_bench,
  ):
    command(commands)
  for name in MOVED:
    commands.add_parser(name, help=f'python -m i2vgen_jax.{name}')
  return parser


def main(arguments: list[str] | None = None) -> None:
  """Runs one command; what the user should change ends it with one line on stderr."""
  logging.basicConfig(level=logging.INFO, format='%(message)s')
  given = sys.argv[1:] if arguments is None else arguments
  if given and given[0] in MOVED:
    user_errors.fail(f'run python -m i2vgen_jax.{shlex.join(given)}')
  options = vars(make_parser().parse_args(given))
  run = options.pop('run')
  try:
    run(**options)
  except Exception as error:
    user_errors.end_with_message(error)
    raise


def _add_demo(commands: jobs.Commands) -> None:
  text = 'Render the demo corpus: coloured shapes, as WebVid videos and img2dataset images.'
  parser = commands.add_parser('demo', help=text, description=text)
  parser.add_argument('--output', required=True, help='folder to write to; kept if complete')
  parser.add_argument(
    '--kind', choices=tuple(kinds.KINDS), default='shapes',
    help='shapes: one plain shape that moves; scenes: up to three, a camera, backdrops',
  )  # fmt: skip
  parser.add_argument(
    '--sealed', action='store_true',
    help='of scenes, held-out videos alone: others than those beside the training videos',
  )  # fmt: skip
  for name in ('num_videos', 'num_validation', 'num_images'):
    own = ', '.join(f'{kind} {made.counts[name]}' for kind, made in kinds.KINDS.items())
    parser.add_argument(f'--{name}', type=int, help=f'default: {own}')
  parser.add_argument('--num_processes', type=choice.at_least_one, default=2)
  jobs.add_dry_run(parser)
  parser.set_defaults(run=_demo)


def _demo(
  output: str, dry_run: bool, num_processes: int, kind: str, sealed: bool, **given: int | None
) -> None:
  counts = demo_corpus.counts_of(kind, sealed, **given)
  if dry_run:
    print(f'would write {output}/webvid and {output}/images: {counts}; nothing was written')
    return
  start = time.monotonic()
  demo_corpus.write(output, **counts, num_processes=num_processes, kind=kind, sealed=sealed)
  print(f'{output}: webvid/ and images/, {time.monotonic() - start:.1f} s')


if __name__ == '__main__':
  jobs.end_with(main)
