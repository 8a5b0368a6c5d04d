"""Verify: is a corpus on disk what its manifest says it is?

Cheap checks cover everything: files, checksums, row counts, alignment of sidecars, keys. Decoding,
which finds what rotted, covers a share of the records, chosen by a hash of their keys.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from etils import epath

from data_pipelines.corpus import jobs, reader, records, rows, schema, storage
from data_pipelines.engines import choice
from data_pipelines.media import failures, probe, sandbox


@dataclasses.dataclass
class Findings:
  """What `verify` found.

  Attributes:
    num_examples: of the manifest.
    num_decoded: records that were decoded.
    problems: lines for people; empty if all is well.
    failed: records that cannot be decoded, by reason.
  """

  num_examples: int
  num_decoded: int
  problems: list[str]
  failed: dict[str, int] = dataclasses.field(default_factory=dict)


def verify(
  directory: epath.PathLike,
  decode_fraction: float = 0.01,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
) -> Findings:
  """Checks the corpus in `directory`, and the sidecars that curate and score added.

  Args:
    directory: that ingest wrote.
    decode_fraction: share of the records that is decoded whole.
    num_processes: see jobs.run.
    engine: see jobs.run.
  Raises:
    ValueError: if there is no corpus.
  """
  if not 0 <= decode_fraction <= 1:
    raise ValueError(f'decode_fraction={decode_fraction} should be in [0, 1].')
  output = epath.Path(directory)
  manifest = reader.read_manifest(directory)
  shards = [shard for split in manifest['splits'].values() for shard in split['shards']]
  stages = [stage for stage in schema.STAGES if _stage_manifest(output, stage).exists()]
  parts = output / '_verified'
  with jobs.claimed(parts, secrets.token_hex(8), kept=False):  # Every run looks anew.
    work = VerifyShard(output, stages, decode_fraction)
    results = jobs.run(work, shards, parts, num_processes, engine)
    work.close()
  problems = [problem for result in results for problem in result['problems']]
  problems += _of_keys(results)
  for stage in stages:
    found = json.loads(_stage_manifest(output, stage).read_text())['corpus']
    if found != manifest['fingerprint']:
      problems.append(
        f'sidecar/{stage} is of {found}, the corpus is {manifest["fingerprint"]}: run '
        f'{schema.command(stage)} again'
      )
  problems = problems or _of_rows(output, manifest['splits'])
  num_examples = sum(split['num_examples'] for split in manifest['splits'].values())
  num_decoded = sum(result['num_decoded'] for result in results)
  failed: collections.Counter = collections.Counter()
  for result in results:
    failed.update(result['failed'])
  return Findings(num_examples, num_decoded, problems, dict(failed))


def _stage_manifest(output: epath.Path, stage: str) -> epath.Path:
  return output / 'sidecar' / stage / 'manifest.json'


def _is_measure(field: pa.Field) -> bool:
  return str(field.type) == 'float'


def _of_rows(output: epath.Path, splits: Mapping[str, dict]) -> list[str]:
  """Of rows/, if the sidecars are right."""
  return [
    f'{split["rows"]} is not what the sidecars say'
    for name, split in splits.items()
    if 'rows' in split and not rows.is_right(output, name, split['shards'])
  ]


def _of_keys(results: Iterable[Mapping]) -> list[str]:
  """Examples that are there twice. Two tars of others may well use one key for two files."""
  seen: set[tuple[str, str]] = set()  # (key, sha256) of the shards before.
  problems = []
  for result in results:
    here: set[str] = set()
    pairs = list(zip(result['keys'], result['sha256'], strict=True))
    for pair in pairs:
      if pair[0] in here or pair in seen:
        problems.append(f'key {pair[0]!r} is there twice')
      here.add(pair[0])
    seen.update(pairs)
  return problems


class VerifyShard:
  """(shard of the manifest, folder) -> problems, keys, sha256, num_decoded, failed.

  Args:
    output: folder of the corpus.
    stages: whose sidecars are checked too.
    decode_fraction: share of the records that is decoded whole.
  """

  def __init__(self, output: epath.Path, stages: list[str], decode_fraction: float):
    self._output = output
    self._stages = stages
    self._decode_fraction = decode_fraction
    self._probe = sandbox.Sandbox(probe.probe)

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    """Writes nothing into the folder."""
    problems: list[str] = []
    result: dict[str, Any] = dict(problems=problems, keys=[], sha256=[], num_decoded=0, failed={})
    for name in (shard['records'], shard['sidecar']):
      if not (self._output / name).exists():
        problems.append(f'{name} is missing')
    if problems:
      return result
    if storage.sha256(self._output / shard['records']) != shard['sha256']:
      problems.append(f'{shard["records"]} has another checksum than its manifest says')
    known = storage.read_table(self._output / shard['sidecar']).to_pylist()
    result['keys'] = [row['key'] for row in known]
    result['sha256'] = [row['sha256'] for row in known]
    if len(known) != shard['num_examples']:
      problems.append(f'{shard["sidecar"]} has {len(known)} rows, not {shard["num_examples"]}')
    for stage in self._stages:
      problems += self._of_stage(stage, shard, result['keys'])
    failed: collections.Counter = collections.Counter()
    try:
      for row, record in itertools.zip_longest(
        known, records.read(self._output / shard['records'])
      ):
        found, is_decoded = self._of_record(shard['records'], row, record, failed)
        problems += found
        result['num_decoded'] += is_decoded
    except Exception as error:  # A file that is none of records.
      problems.append(f'{shard["records"]} cannot be read: {failures.of(error)}')
    result['failed'] = failed
    return result

  def close(self) -> None:
    """Ends the child that decodes."""
    self._probe.close()

  def _of_stage(self, stage: str, shard: Mapping, keys: list[str]) -> list[str]:
    name = schema.stage_sidecar(stage, shard['sidecar'])
    if not (self._output / name).exists():
      return [f'{name} is missing: run {schema.command(stage)} again']
    table = storage.read_table(self._output / name)
    if not table.schema.equals(schema.STAGES[stage]):
      return [f'{name} has other columns than {stage} writes: run {schema.command(stage)} again']
    if table['key'].to_pylist() != keys:
      return [f'{name} is not aligned with {shard["sidecar"]}: run {schema.command(stage)} again']
    columns = {
      field.name: table[field.name].to_pylist() for field in table.schema if _is_measure(field)
    }
    problems = [
      f'{name}: {column} of {key!r} is {value}'
      for column, values in columns.items()
      for key, value in zip(keys, values, strict=True)
      if value is not None and not math.isfinite(value)
    ]
    spans = table['spans'].to_pylist() if 'spans' in table.column_names else []
    return problems + [
      f'{name}: {column} of shot {span["span_id"]} of {key!r} is {value}'
      for key, found in zip(keys, spans, strict=False)
      for span in found or ()
      for column, value in span.items()
      if isinstance(value, float) and not math.isfinite(value)
    ]

  def _of_record(
    self,
    name: str,
    row: dict | None,
    record: dict | Exception | None,
    failed: collections.Counter,
  ) -> tuple[list[str], bool]:
    """(problems, whether it was decoded); counts why it was not."""
    if row is None or record is None:
      return [f'{name} and its sidecar are not of one length'], False
    if isinstance(record, Exception):
      return [f'{name}: {row["key"]!r} cannot be read: {record}'], False
    if record['key'] != row['key']:
      return [f'{name} has {record["key"]!r} where its sidecar has {row["key"]!r}'], False
    if hashlib.sha256(record['data']).hexdigest() != row['sha256']:
      return [f'{name}: {row["key"]!r} has other bytes than were ingested'], False
    share = int.from_bytes(hashlib.sha256(row['key'].encode()).digest()[4:8], 'big') / 2**32
    if share >= self._decode_fraction:
      return [], False
    try:
      found = self._probe(record['data'], row['media'], probe.SPECIAL)
    except Exception as error:  # One record never ends a command.
      lost = failures.of(error)
      failed[lost.reason] += 1
      return [f'{name}: {row["key"]!r} cannot be decoded: {lost}'], True
    # Older corpora lack some columns.
    wrong = [column for column, value in found.items() if value != row.get(column, value)]
    return [
      f'{name}: {row["key"]!r} has another {column} than its sidecar' for column in wrong
    ], True


def add_command(commands: jobs.Commands) -> None:
  """Adds `verify` to the command line."""
  text = 'Check a corpus: checksums, counts, alignment of sidecars, keys; decode a share of it.'
  parser = commands.add_parser('verify', help=text, description=text)
  parser.add_argument('--corpus', dest='directory', required=True, help='folder that ingest wrote')
  parser.add_argument('--decode_fraction', type=float, default=0.01, help='%(default)s; 1 for all')
  jobs.add_dry_run(parser)
  choice.add_flags(parser)
  parser.set_defaults(run=_run_command)


def _run_command(directory: str, dry_run: bool, **options: Any) -> None:
  start = time.monotonic()
  if dry_run:
    splits = reader.read_manifest(directory)['splits'].values()
    print(
      f'{directory}: {sum(split["num_examples"] for split in splits):,} examples in '
      f'{sum(len(split["shards"]) for split in splits):,} shards to check; nothing was written'
    )
    return
  found = verify(directory, **choice.given(options))
  for problem in found.problems[:20]:
    print(problem)
  if found.failed:
    print(failures.sentence(found.failed, 'decoded'))
  if found.problems:
    raise ValueError(
      f'{directory}: {len(found.problems)} problems. Run stages again where that is said; of other '
      'files put back copies, or ingest the input into another --output: in this one it counts as '
      'ingested.'
    )
  print(
    f'{directory}: {found.num_examples:,} examples are what the manifest says, '
    f'{found.num_decoded:,} of them decoded, {time.monotonic() - start:.1f} s'
  )
