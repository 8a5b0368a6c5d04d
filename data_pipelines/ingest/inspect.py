"""inspect: says what a folder, list, tar or bucket holds, before anything is ingested from it."""

import argparse
import collections
import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping

from etils import epath

from data_pipelines import sources
from data_pipelines.corpus import jobs
from data_pipelines.media import failures, probe
from data_pipelines.sources import laion, raw

NUM_SHARDS_READ = 8  # Spread evenly: damage is often in one part of a corpus.


@dataclasses.dataclass
class Finding:
  """What `inspect` found.

  Attributes:
    layout: a key of sources.LAYOUTS.
    columns: names by file, for lists and tables.
    num_shards: units of work.
    num_listed: examples that the lists name; None where only reading the tars would tell.
    splits: shards by split; 'without a split' where the source does not say.
    unusable: what the listing alone rejects, by reason, in all shards.
    num_read: examples that were read and decoded.
    accepted: of those, by media.
    rejected: of those, by reason.
    origin: how many of those have each column of schema.ORIGIN.
    num_unlisted: media files that are no examples, for nothing lists them.
    unlisted: the first few of them.
    samples, bad_samples: lines about some of each.
    advice: what to do next.
  """

  layout: str
  columns: dict[str, list[str]]
  num_shards: int
  num_listed: int | None
  splits: dict[str, int]
  unusable: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  num_read: int = 0
  accepted: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  rejected: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  origin: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  num_unlisted: int = 0
  unlisted: list[str] = dataclasses.field(default_factory=list)
  samples: list[str] = dataclasses.field(default_factory=list)
  bad_samples: list[str] = dataclasses.field(default_factory=list)
  advice: str = ''

  def text(self) -> str:
    """The finding, for people."""
    listed = 'unknown until read' if self.num_listed is None else f'{self.num_listed:,}'
    lines = [f'layout    {self.layout}']
    lines += [f'columns   {", ".join(found)}  ({name})' for name, found in self.columns.items()]
    lines.append(f'listed    {listed} examples in {self.num_shards} shards: {_counts(self.splits)}')
    if self.unusable:
      lines.append(f'unusable  {_counts(self.unusable)} of those listed, without a look inside')
    if self.unlisted:
      more = ', ...' if self.num_unlisted > len(self.unlisted) else ''
      lines.append(f'unlisted  {self.num_unlisted:,} media files: {", ".join(self.unlisted)}{more}')
    lines.append(f'read      {self.num_read:,}: accepted {_counts(self.accepted) or "none"}')
    lines.append(f'rejected  {_counts(self.rejected) or "none"}')
    if self.origin:
      lines.append(f'known     {_counts(self.origin)}')
    lines += ['  ' + line for line in self.bad_samples + self.samples]
    return '\n'.join([*lines, self.advice])


def inspect(path: epath.PathLike, layout: str | None = None, num_examples: int = 64) -> Finding:
  """Reads and decodes some examples of the corpus at `path`; writes nothing.

  Args:
    path: folder, CSV, tar, table or list; local, gs:// or s3://.
    layout: a key of sources.LAYOUTS; detected if None.
    num_examples: how many to decode, from up to eight shards.
  Raises:
    ValueError: if the layout is not known, a column is missing, or files lack captions.
  """
  layout = layout or sources.detect(path)
  source = sources.open_source(path, layout)
  shards = source.shards()
  counts = [source.count(shard) for shard in shards]
  known = [count for count in counts if count is not None]
  finding = Finding(
    layout=layout,
    columns=source.columns(),
    num_shards=len(shards),
    num_listed=sum(known) if len(known) == len(counts) else None,
    splits=dict(collections.Counter(shard.split or 'without a split' for shard in shards)),
    unusable=collections.Counter(
      item.reason for shard in shards for item in shard.items if isinstance(item, raw.Rejected)
    ),
  )
  finding.num_unlisted, finding.unlisted = source.count_unlisted()
  for example in _some_examples(source, shards, num_examples):
    _judge(finding, example)
  finding.advice = (
    f'ingest:   python -m data_pipelines ingest --input={shlex.quote(str(path))} --output=CORPUS'
  )
  if isinstance(source, laion.LaionParquet):
    finding.advice = f'Links without media; fetch them first: {source.download_command()}'
  return finding


def _some_examples(
  source: raw.Source, shards: list[raw.Shard], num_examples: int
) -> Iterator[raw.RawExample | raw.Rejected]:
  stride = -(-len(shards) // NUM_SHARDS_READ)
  chosen = shards[::stride] if shards else []
  for shard in chosen:
    yield from itertools.islice(source.examples(shard), -(-num_examples // len(chosen)))


def _judge(finding: Finding, example: raw.RawExample | raw.Rejected) -> None:
  finding.num_read += 1
  if isinstance(example, raw.RawExample):
    try:
      row = probe.probe(example.data, example.media)
    except Exception as error:  # One file never ends a command.
      lost = failures.of(error)
      example = raw.Rejected(example.key, lost.reason, lost.detail)
    else:
      finding.accepted[example.media] += 1
      finding.origin.update(example.origin.keys())
      if len(finding.samples) < 5:
        finding.samples.append(f'{example.key}  {_measures(example.media, row)}  {_quote(example)}')
      return
  finding.rejected[example.reason] += 1
  if finding.rejected[example.reason] <= 2:
    why = raw.reason_text(example.reason, example.detail[:100])
    finding.bad_samples.append(f'{example.key}  {why}')


def _measures(media: str, row: dict) -> str:
  size = f'{media} {row["width"]}x{row["height"]}'
  if media == 'image':
    return size
  return f'{size}, {row["num_frames"]} frames, {row["duration"]:.2f} s, {row["fps"]:.4g} fps'


def _quote(example: raw.RawExample) -> str:
  text = example.caption if len(example.caption) <= 60 else example.caption[:57] + '...'
  return repr(text)


def _counts(counts: Mapping[str, int]) -> str:
  return ', '.join(f'{name} {count:,}' for name, count in counts.items())


def add_command(commands: jobs.Commands) -> None:
  """Adds `inspect` to the command line."""
  text = 'Say what a corpus holds: layout, columns, counts, samples, and what would be rejected.'
  parser = commands.add_parser('inspect', help=text, description=text + ' Nothing is written.')
  given = parser.add_mutually_exclusive_group(required=True)
  text = 'folder, CSV, tar, table or list; local, gs:// or s3://'
  given.add_argument('path', nargs='?', default=argparse.SUPPRESS, help=text)
  given.add_argument('--input', dest='path', help='the same, as ingest takes it')
  parser.add_argument('--layout', help=f'one of {", ".join(sources.LAYOUTS)}; detected if left out')
  parser.add_argument('--num_examples', type=int, default=64, help='how many to decode')
  parser.set_defaults(run=lambda **options: print(inspect(**options).text()))
