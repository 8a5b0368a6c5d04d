"""Caption: several captions for each example, drawn by weight, beside the one that came with it.

Each source (a model, a function) is asked once, shard by shard, and its answers stay in
_captioned/SOURCE/. Then all sources' captions are gathered, in seconds: weights may be changed and
the command run again. Records are never rewritten:

sidecar/caption/<split>-IIIII-of-NNNNN.parquet   for --where: caption (of most weight), language
captions/<the name of the shard's records>       for the stream: all captions of each record
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.caption import captioners
from data_pipelines.caption import shard as shard_lib
from data_pipelines.corpus import jobs, reader, records, remote_records, schema, storage
from data_pipelines.corpus import writer as writer_lib
from data_pipelines.engines import choice
from data_pipelines.media import failures

VERSION = 1
STAGE = 'caption'
ALT = shard_lib.ALT
FOLDER = 'captions'


def caption(
  directory: str,
  source: shard_lib.Source | None = None,
  weights: Mapping[str, float] | None = None,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
) -> dict:
  """Writes sidecar/caption/ and captions/ of the corpus in `directory`.

  Args:
    directory: an ingested corpus, on a disk or in a bucket.
    source: that is asked now; None only gathers what there is.
    weights: by which captions are drawn, by source; 1 for those not named, 0 leaves one out.
    num_processes, engine: see jobs.run.
  Returns:
    The stage's manifest.
  Raises:
    ValueError: if the folder holds no corpus, a weight is of no source or negative, or the
      captioner cannot be used.
  """
  output, manifest = epath.Path(directory), reader.read_manifest(directory)
  shards = [shard for _, shard in reader.shards_of(manifest)]
  failed: dict[str, int] = {}
  if source:
    parts = output / '_captioned' / source.name
    corpus = reader.first_fingerprint(manifest)
    described = [VERSION, corpus, source.captioner.identity(), source.num_frames]
    stamps = [shard['sha256'] for shard in shards]
    with jobs.claimed(parts, json.dumps(described), stamps=stamps):
      for number, shard in enumerate(shards):
        shard_lib.ask_again(output, parts, number, shard)
      work = shard_lib.CaptionShard(output, source, parts)
      results = jobs.run(work, list(enumerate(shards)), parts, num_processes, engine)
      work.close()
      failed = jobs.failures_of(results, parts)
  with jobs.claimed(output / '_gathered', '', kept=False):
    return _gather(output, manifest, shards, dict(weights or {}), failed)


def _gather(
  output: epath.Path, manifest: Mapping, shards: Sequence[Mapping], weights: dict, failed: Mapping
) -> dict:
  names = [ALT, *sorted(path.name for path in (output / '_captioned').glob('*') if path.is_dir())]
  names = [n for n in names if n == ALT or _is_whole(output, n, len(shards))]
  for name, weight in weights.items():
    if name not in names or weight < 0:
      raise ValueError(
        f'--weight={name}={weight}: the sources are {", ".join(names)}, and weights 0 or more.'
      )
  of_source = {name: weights.get(name, 1.0) for name in names}
  if not any(of_source.values()):
    raise ValueError('all weights are 0: no caption would ever be drawn.')
  marker = output / 'sidecar' / STAGE / 'manifest.json'
  marker.unlink(missing_ok=True)  # While the files change, there is none.
  digest, layouts, num_captions = hashlib.sha256(), {}, 0
  for number, shard in enumerate(shards):
    rows = _rows(output, number, shard, of_source)
    num_captions += sum(len(row['captions']) for row in rows)
    table = pa.Table.from_pylist(rows, schema.CAPTION)
    storage.write_table(output / schema.stage_sidecar(STAGE, shard['sidecar']), table)
    digest.update(json.dumps([row['captions'] for row in rows]).encode())
    layouts[shard['records']] = _write_records(output / FOLDER / shard['records'], rows)
  summary = dict(
    version=VERSION,
    corpus=manifest['fingerprint'],
    shots=reader.shots(output),
    weights=of_source,
    fingerprint=digest.hexdigest()[:16],
    num_examples=sum(shard['num_examples'] for shard in shards),
    num_captions=num_captions,
    failed=dict(failed),
    shards=layouts,
  )
  storage.write_bytes(marker, json.dumps(summary, indent=2).encode())
  return summary


def _is_whole(output: epath.Path, name: str, num_shards: int) -> bool:
  folder = output / '_captioned' / name
  if sum(1 for _ in folder.glob(f'*/{jobs.MARKER}')) == num_shards:
    return True
  logging.warning('the captions of %r are not whole yet, and are left out: ask it again.', name)
  return False


def _rows(
  output: epath.Path, number: int, shard: Mapping, weights: Mapping[str, float]
) -> list[dict[str, Any]]:
  """Rows of schema.CAPTION of a shard."""
  import py3langid  # Half a second.

  keys = storage.read_table(output / shard['sidecar'], ['key'])['key'].to_pylist()
  of_row: list[list[dict[str, Any]]] = [[] for _ in keys]
  spans = shard_lib.spans(output, shard)
  for name, weight in weights.items():
    answers: list[dict[str, Any]]
    if name == ALT:
      read = records.read(output / shard['records'])
      answers = [
        dict(
          row=row,
          span_id=None,
          start=0.0,
          end=0.0,
          text='' if isinstance(found, Exception) else found['caption'],
        )
        for row, found in enumerate(read)
      ]
    else:
      part = jobs.part(output / '_captioned' / name, number)
      answers = storage.read_table(part / 'captions.parquet').to_pylist()
    for answer in answers:
      shot = answer['span_id'], answer['start'], answer['end']
      if shot[0] is not None and shot not in spans[answer['row']]:
        continue  # Shots end elsewhere since, and this is one no more.
      if weight and answer['text'] and answer['text'].strip():
        told = dict(span_id=answer['span_id'], text=answer['text'], weight=weight, source=name)
        of_row[answer['row']].append(told)
  rows = []
  for key, captions in zip(keys, of_row, strict=True):
    first = max(captions, key=lambda caption: caption['weight'], default=dict(text=''))['text']
    rows.append(
      dict(
        key=key,
        caption=first,
        captions=captions,
        language=py3langid.classify(first)[0] if first else None,
        num_words=len(first.split()),
      )
    )
  return rows


def _write_records(path: epath.Path, rows: Sequence[Mapping]) -> dict[str, Any]:
  """Writes what the stream reads of a shard; returns its layout, for JSON."""
  with storage.written(path) as local:
    writer = writer_lib.RecordWriter(local, schema.caption_features())
    for row in rows:
      told = [[each[name] for name in ('span_id', 'text', 'weight')] for each in row['captions']]
      writer.write(dict(key=row['key'], captions=json.dumps(told)))
    writer.close()
    layout = remote_records.layout_of(local)
    sha256 = storage.sha256(epath.Path(local))
  return dict(size=layout.size, footer=layout.footer, sha256=sha256)


def add_command(commands: jobs.Commands) -> None:
  """Adds `caption` to the command line."""
  text = 'Write captions by a model or a function, and gather all for training and --where.'
  parser = commands.add_parser('caption', help=text, description=text)
  parser.add_argument('--corpus', dest='directory', required=True, help='folder that ingest wrote')
  texts = {
    'source': 'name of the captions that are written',
    'server': 'URL of an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1',
    'model': 'of the server',
    'by': 'module:function in place of a server: [captioners.Clip] -> [str]',
  }
  for name, text in texts.items():
    parser.add_argument(f'--{name}', default='', help=text)
  parser.add_argument('--prompt', default=captioners.PROMPT, help='what the model is asked')
  text = 'of a video that are shown; %(default)s'
  parser.add_argument('--num_frames', type=choice.at_least_one, default=4, help=text)
  text = 'requests at a time; %(default)s'
  parser.add_argument('--in_flight', type=choice.at_least_one, default=8, help=text)
  text = f'of being drawn; 1 if not given, 0 leaves it out; {ALT} is what came with the example'
  parser.add_argument('--weight', action='append', default=[], metavar='SOURCE=WEIGHT', help=text)
  jobs.add_dry_run(parser)
  choice.add_flags(parser)
  parser.set_defaults(run=_run_command)


def _run_command(
  directory: str,
  source: str,
  server: str,
  model: str,
  prompt: str,
  by: str,
  num_frames: int,
  in_flight: int,
  weight: Sequence[str],
  dry_run: bool,
  **options: Any,
) -> None:
  start = time.monotonic()
  options = choice.given(options)
  asked = _source(source, server, model, prompt, by, num_frames, in_flight)
  weights = dict(_weight(item) for item in weight)
  if dry_run:
    splits = reader.read_manifest(directory)['splits'].values()
    num = sum(split['num_examples'] for split in splits)
    print(f'{directory}: {num:,} examples to caption; nothing was written')
    return
  summary = caption(directory, asked, weights, **options)
  if summary['failed']:
    print(failures.sentence(summary['failed'], 'captioned'))
  told = ', '.join(f'{name} {value:g}' for name, value in summary['weights'].items())
  print(
    f'{directory}: {summary["num_captions"]:,} captions of {summary["num_examples"]:,} examples; '
    f'weights: {told}; {time.monotonic() - start:.1f} s'
  )


def _source(
  name: str, server: str, model: str, prompt: str, by: str, num_frames: int, in_flight: int
) -> shard_lib.Source | None:
  if not server and not by:
    if name:
      raise ValueError(f'--source={name} needs --server=URL with --model=NAME, or --by=FUNCTION.')
    return None
  if server and by:
    raise ValueError('--server and --by are given: give one of them.')
  if server and not model:
    raise ValueError(f'--server={server} needs --model=NAME.')
  if not name:
    raise ValueError('--source=NAME is missing: it names the captions that are written.')
  captioner = (
    captioners.ByServer(server, model, prompt, in_flight) if server else captioners.ByFunction(by)
  )
  return shard_lib.Source(name, captioner, num_frames)


def _weight(item: str) -> tuple[str, float]:
  name, _, value = item.rpartition('=')
  try:
    return name, float(value)
  except ValueError:
    raise ValueError(f'--weight={item} should be SOURCE=NUMBER.') from None
