"""Curate: what of an ingested corpus is worth training on, written beside it as new sidecars.

Measuring (measure.py) decodes everything once, shard by shard, on as many machines as there are;
what it found stays in _measured/. Deciding (decide.py) reads only that, on one machine, in three
minutes per million examples: rules may be changed and the command run again. Media is never
rewritten.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines.corpus import buckets, jobs, reader, records, schema, storage
from data_pipelines.curate import decide, denylist
from data_pipelines.engines import choice
from data_pipelines.media import failures, sandbox

VERSION = 4  # Of what is measured: another one is measured again.
STAGE = 'curate'
UNITS = dict(
  min_short_side='pixels', min_duration='seconds of a shot',
  min_motion='diagonals per second', max_motion='diagonals per second',
  max_border_area='share of the frame', max_text_area='share of the frame',
  max_watermark='probability',
)  # fmt: skip
MAX_CAPTION = 1000  # Characters; CLIP reads 77 tokens.


def curate(
  directory: str,
  rules: decide.Rules | None = None,
  denylists: Sequence[epath.PathLike] = (),
  allow_no_denylist: str = '',
  hooks: Mapping[str, str] | None = None,
  num_processes: int = 2,
  engine: choice.Engine | None = None,
  allowlists: Sequence[epath.PathLike] = (),
  denylist_must_match: bool = False,
  detectors: Mapping[str, str] | None = None,
) -> dict:
  """Measures the corpus in `directory` and writes sidecar/curate/ there.

  Args:
    directory: an ingested corpus, on a disk or in a bucket.
    rules: what to keep.
    denylists: files of what must not be used (denylist.py); images from the web need one, or an
      allowlist.
    allow_no_denylist: why there is none; it is written into the manifest.
    hooks: column of schema.CURATE -> 'module:function' (measure.py).
    num_processes, engine: see jobs.run.
    allowlists: files of all that may be used, whatever the media.
    denylist_must_match: whether a denylist that names no example is an error.
    detectors: of detectors.MODULES -> what its flag says.
  Returns:
    The stage's manifest: counts, the funnel, rules and lists.
  Raises:
    ValueError: if the folder holds no corpus, a hook cannot be loaded, a list is missing or cannot
      be used, or an allowlist names no example.
  """
  rules, hooks, output = rules or decide.Rules(), dict(hooks or {}), epath.Path(directory)
  manifest = reader.read_manifest(directory)
  detectors = dict(detectors or {})
  _check_hooks(hooks, detectors)
  shards = reader.shards_of(manifest)
  web = _Web.of(output, shards)
  reason = _denylist_or_reason(web, [*denylists, *allowlists], allow_no_denylist)
  denied = denylist.Lists(denylists)
  allowed = denylist.Lists(allowlists, 'allowlist')

  measured_in = output / '_measured'
  identity = [VERSION, reader.first_fingerprint(manifest), hooks, *_stamps(detectors)]
  network = output / 'sidecar/shots/manifest.json'
  if network.exists():  # Of `score --shots`.
    found = storage.read_json(network, 'weights', 'corpus')
    if found['corpus'] != manifest['fingerprint']:
      raise ValueError(
        f'{directory} has grown since `score --shots` found where its shots end: run python -m '
        f'i2vgen_jax.score --corpus={shlex.quote(directory)} --shots=WEIGHTS again, it looks '
        'at new shards only.'
      )
    identity.append(found['weights'])
  stamps = [shard['sha256'] for _, shard in shards]
  with jobs.claimed(measured_in, json.dumps(identity), stamps=stamps):
    work = MeasureShard(output, hooks, detectors)
    results = jobs.run(work, [shard for _, shard in shards], measured_in, num_processes, engine)
    work.close()
    failed = jobs.failures_of(results, measured_in)
    decisions = _decide(output, shards, rules, denied, allowed, web.has_tags, denylist_must_match)
    summary = dict(
      version=VERSION,
      corpus=manifest['fingerprint'],
      rules=dataclasses.asdict(rules),
      hooks=hooks,
      detectors=detectors,
      denylists=_digests(denylists),
      allowlists=_digests(allowlists),
      lists=denied.sentences(decisions.num_examples) + allowed.sentences(decisions.num_examples),
      no_denylist=reason,
      num_examples=decisions.num_examples,
      num_kept=decisions.num_kept,
      num_spans_kept=decisions.num_spans_kept,
      shots=decisions.shots,
      funnel=decisions.funnel(),
      flags=dict(sorted(decisions.flags.items())),
      failed=failed,
    )
    storage.write_bytes(_marker(output), json.dumps(summary, indent=2).encode())
    return summary


def _decide(
  output: epath.Path,
  shards: Sequence[tuple[str, Mapping]],
  rules: decide.Rules,
  denied: denylist.Lists,
  allowed: denylist.Lists,
  has_tags: bool,
  must_match: bool,
) -> decide.Decisions:
  """Writes the sidecars of all shards."""
  measured_in = output / '_measured'
  needs_md5 = 'md5' in denied.kinds | allowed.kinds

  def read(number: int) -> list[dict]:
    """The rows of a shard: what ingest knows and what was measured."""
    base = storage.read_table(output / shards[number][1]['sidecar']).to_pylist()
    if needs_md5:
      _add_md5(base, output / shards[number][1]['records'])
    found = storage.read_table(jobs.part(measured_in, number) / 'measured.parquet').to_pylist()
    return [known | row for known, row in zip(base, found, strict=True)]

  def read_prints(number: int, places: np.ndarray) -> list[dict]:
    path = jobs.part(measured_in, number) / 'measured.parquet'
    return storage.read_table(path, ['hashes', 'points']).take(places).to_pylist()

  is_held_out = [split != 'train' for split, _ in shards]
  decisions = decide.Decisions(read, is_held_out, rules, denied, has_tags, allowed, read_prints)
  if must_match:
    denied.check_matches()
  allowed.check_matches()  # Nothing would be left.
  marker = _marker(output)
  if marker.exists():  # While the sidecars change, there is none.
    marker.unlink()
  for number, (_, shard) in enumerate(shards):
    table = pa.Table.from_pylist(decisions.rows(number), schema.CURATE)
    storage.write_table(output / schema.stage_sidecar(STAGE, shard['sidecar']), table)
  return decisions


def _marker(output: epath.Path) -> epath.Path:
  return output / 'sidecar' / STAGE / 'manifest.json'


def _digests(paths: Sequence[epath.PathLike]) -> dict[str, str]:
  return {str(path): storage.sha256(epath.Path(path)) for path in paths}


def _add_md5(rows: list[dict], path: epath.Path) -> None:
  """Gives the rows of a corpus of before the column was there the digests of their files."""
  if not all(row.get('md5') for row in rows):
    for row, record in zip(rows, records.read(path), strict=True):
      if not isinstance(record, Exception):
        row['md5'] = hashlib.md5(record['data'], usedforsecurity=False).hexdigest()


class MeasureShard:
  """(shard of the manifest, folder) -> measured.parquet, one row per record."""

  def __init__(self, output: epath.Path, hooks: Mapping[str, str], detectors: Mapping[str, str]):
    self._output = output
    self._hooks = hooks
    self._detectors = detectors
    self._measure = sandbox.Sandbox(_measure)

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    """Damaged media becomes a row with the flag damaged:REASON."""
    sidecar = storage.read_table(self._output / shard['sidecar']).to_pylist()
    rows, example = [], ''
    failed: collections.Counter = collections.Counter()
    shots = self._output / schema.stage_sidecar('shots', shard['sidecar'])
    if shots.exists():
      ends = storage.read_table(shots, ['transitions']).to_pylist()
      sidecar = [known | found for known, found in zip(sidecar, ends, strict=True)]
    found = records.read(self._output / shard['records'])
    for known, record in zip(sidecar, found, strict=True):
      row: dict[str, Any] = dict(key=known['key'], flags=_flags(known, record))
      try:
        if isinstance(record, Exception):
          raise record
        row['caption_length'] = len(record['caption'])
        row.update(self._measure(record['data'], known, self._hooks, self._detectors))
      except Exception as error:  # One example never ends a command.
        lost = failures.of(error)
        logging.warning('%s: %s', known['key'], lost)
        row['flags'].append(f'damaged:{lost.reason}')
        failed[lost.reason] += 1
        example = f'{known["key"]}: {lost}'
      rows.append(row)
    table = pa.Table.from_pylist(rows, schema.CURATE)
    pa.parquet.write_table(table, folder / 'measured.parquet', write_page_checksum=True)
    return dict(num_examples=len(rows), failed=failed, example=example)

  def close(self) -> None:
    """Ends the child that decodes."""
    self._measure.close()


def _measure(
  data: bytes, known: Mapping, hooks: Mapping[str, str], detectors: Mapping[str, str]
) -> dict:
  from data_pipelines.curate import detectors as detectors_lib
  from data_pipelines.curate import measure

  end = known['first_time'] + known['duration']
  found = known.get('transitions')
  row = measure.measure(data, known['media'], known['fps'], hooks, end, found)
  if not detectors:
    return row
  spans = row.get('spans')
  if not spans:  # An image, or a video that is plain.
    return row | detectors_lib.columns(data, known, (known['first_time'], end), detectors)
  for span in spans:
    times = span['span_start'], span['span_end']
    span.update(detectors_lib.columns(data, known, times, detectors))
  longest = measure.longest_of(spans)
  return row | {name: longest[name] for name, _ in schema.SPAN if name in longest}


def _stamps(detectors: Mapping[str, str]) -> list:
  """Changes with the detectors and the networks' files; empty without any."""
  found = {
    name: storage.sha256(epath.Path(given)) if epath.Path(given).exists() else given
    for name, given in detectors.items()
  }
  return [found] if found else []


def _check_hooks(hooks: Mapping[str, str], detectors: Mapping[str, str]) -> None:
  from data_pipelines.curate import detectors as detectors_lib
  from data_pipelines.curate import measure

  detectors_lib.check(detectors)
  if 'text' in detectors and 'text_area' in hooks:
    raise ValueError('--text and --hook=text_area both fill text_area: give one of them.')
  for name, path in hooks.items():
    if name not in ('text_area', 'watermark_score'):
      raise ValueError(
        f'hook for {name!r}: only text_area and watermark_score are filled by hooks.'
      )
    measure.load_hook(path)


@dataclasses.dataclass
class _Web:
  """Whether a corpus comes from the web.

  Attributes:
    num_images: with a link or an NSFW tag, as LAION's have.
    has_tags: whether any example has an NSFW tag.
  """

  num_images: int = 0
  has_tags: bool = False

  @classmethod
  def of(cls, output: epath.Path, shards: Sequence[tuple[str, Mapping]]) -> '_Web':
    paths = [output / shard['sidecar'] for _, shard in shards]
    found = storage.in_threads(cls._of_shard, paths)
    return cls(sum(num for num, _ in found), any(has_tags for _, has_tags in found))

  @staticmethod
  def _of_shard(path: epath.Path) -> tuple[int, bool]:
    rows = storage.read_table(path, ['media', 'url', 'nsfw']).to_pylist()
    linked = [row for row in rows if row['media'] == 'image' and (row['url'] or row['nsfw'])]
    return len(linked), any(row['nsfw'] for row in rows)


def _denylist_or_reason(web: _Web, denylists: Sequence[epath.PathLike], reason: str) -> str:
  """Raises if images from the web come without a list of what must not be used."""
  if denylists or not web.num_images:
    return ''
  if not reason:
    raise ValueError(
      f'{web.num_images} images come from the web (they have links or NSFW tags, as LAION has). '
      'LAION links to illegal material, which Re-LAION leaves out: give --denylist=FILE with what '
      'to drop, --allowlist=FILE with what stays, or --allow-no-denylist=REASON, which is kept in '
      'the manifest.'
    )
  return reason


def _flags(known: Mapping, record: dict | Exception) -> list[str]:
  flags = ['variable_rate'] * known['is_variable_rate'] + ['truncated'] * known['is_truncated']
  # Older corpora lack these columns.
  flags += ['hole'] * (known['fps'] * (known.get('longest_gap') or 0) > buckets.HOLE)
  flags += ['interlaced'] * bool(known.get('is_interlaced')) + ['hdr'] * bool(known.get('hdr'))
  if not isinstance(record, Exception):
    caption = record['caption']
    flags += ['caption_empty'] * (not caption.strip())
    flags += ['caption_long'] * (len(caption) > MAX_CAPTION)
    flags += ['caption_not_utf8'] * ('\ufffd' in caption)
  return flags


def add_command(commands: jobs.Commands) -> None:
  """Adds `curate` to the command line."""
  text = 'Measure a corpus (shots, motion, copies) and say what is worth training on.'
  parser = commands.add_parser('curate', help=text, description=text)
  parser.add_argument('--corpus', dest='directory', required=True, help='folder that ingest wrote')
  for field in dataclasses.fields(decide.Rules):
    if field.name == 'nsfw':
      parser.add_argument(
        '--nsfw', default='UNLIKELY', help='LAION tags to keep, with commas; %(default)s'
      )
    elif field.name == 'keep_duplicates':
      parser.add_argument('--keep_duplicates', action='store_true', help='copies stay')
    else:
      kind = int if field.name == 'min_short_side' else float
      unit = UNITS[field.name]
      shown = f'{unit}; {field.default}' if field.default is not None else f'{unit}; no bound'
      parser.add_argument(f'--{field.name}', type=kind, default=field.default, help=shown)
  lists = dict(action='append', default=[])
  text = 'Parquet, CSV, JSONL or text file of links, hashes or digests to drop; may be repeated'
  parser.add_argument('--denylist', dest='denylists', metavar='FILE', help=text, **lists)
  text = 'likewise, of all that may be kept'
  parser.add_argument('--allowlist', dest='allowlists', metavar='FILE', help=text, **lists)
  text = 'a denylist that names no example is an error'
  parser.add_argument('--denylist_must_match', action='store_true', help=text)
  text = 'why images from the web need none'
  parser.add_argument(
    '--allow_no_denylist', '--allow-no-denylist', metavar='REASON', default='', help=text
  )
  text = 'text_area=module:function or watermark_score=module:function'
  parser.add_argument('--hook', dest='hooks', metavar='COLUMN=FUNCTION', help=text, **lists)
  text = 'rapidocr reads the text of three frames of each shot: 1 to 5 s of a core'
  parser.add_argument('--text', metavar='READER', default='', help=text)
  text = 'ONNX file of YuNet or CenterFace: counts faces and their share of the frame'
  parser.add_argument('--faces', metavar='FILE', default='', help=text)
  text = 'ONNX file of a detector of people, as YOLO exports'
  parser.add_argument('--people', metavar='FILE', default='', help=text)
  jobs.add_dry_run(parser)
  choice.add_flags(parser)
  parser.set_defaults(run=_run_command)


def _run_command(
  directory: str,
  denylists: Sequence[str],
  allowlists: Sequence[str],
  denylist_must_match: bool,
  allow_no_denylist: str,
  hooks: Sequence[str],
  text: str,
  faces: str,
  people: str,
  dry_run: bool,
  num_processes: int,
  **given: Any,
) -> None:
  start = time.monotonic()
  given = choice.given(given)
  engine = given.pop('engine')
  named = {column: path for column, _, path in (hook.partition('=') for hook in hooks)}
  rules = decide.Rules(**dict[str, Any](given, nsfw=tuple(given['nsfw'].split(','))))
  if dry_run:
    manifest = reader.read_manifest(directory)
    num_shards = sum(len(found['shards']) for found in manifest['splits'].values())
    num_done = sum(1 for _ in (epath.Path(directory) / '_measured').glob(f'*/{jobs.MARKER}'))
    print(f'{directory}: {num_shards} shards, {num_done} measured; {rules}; nothing was written')
    return
  options: dict[str, Any] = dict(allowlists=allowlists, denylist_must_match=denylist_must_match)
  asked = dict(text=text, faces=faces, people=people)
  options['detectors'] = {name: value for name, value in asked.items() if value}
  summary = curate(
    directory, rules, denylists, allow_no_denylist, named, num_processes, engine, **options
  )
  for line in summary['lists']:
    print(line)
  if summary['failed']:
    print(failures.sentence(summary['failed'], 'measured'))
  for step in summary['funnel']:
    if step['num_broken']:
      more = ', ...' * (step['num_broken'] > len(step['examples']))
      print(f'{step["rule"]:>12}: {step["num_broken"]:,} rejected, {step["num_left"]:,} left: '
            f'{step["reason"]} ({", ".join(step["examples"])}{more})')  # fmt: skip
  print(
    f'{directory}: {summary["num_kept"]:,} of {summary["num_examples"]:,} kept, in '
    f'{summary["num_spans_kept"]:,} shots or images; {time.monotonic() - start:.1f} s'
  )
