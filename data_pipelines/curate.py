"""Curate: what of an ingested corpus is worth training on, written beside it as new sidecars.

Measuring (measure.py) decodes everything once, shard by shard, on as many machines as there are;
what it found stays in _measured/. Deciding reads only that, on one machine, in seconds per million
examples: rules may be changed and the command run again. Media is never rewritten.
"""

import dataclasses
import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from etils import epath

from data_pipelines import corpus, decode, denylist, jobs, records, sandbox, schema, storage

VERSION = 1  # Of what is measured: another one is measured again.
STAGE = 'curate'
MAX_CAPTION = 1000  # Characters; CLIP reads 77 tokens.
# In the order of the funnel.
RULES = (
  'damaged', 'denylist', 'nsfw', 'resolution', 'duration', 'motion', 'border', 'text', 'watermark',
  'duplicate',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is kept. None lets everything pass, and so does a value that is not known.

  Attributes:
    min_short_side: pixels of the shorter side. WebVid's previews have 336, so 360 drops them.
    min_duration: seconds of the longest single shot.
    min_motion, max_motion: diagonals per second; the tails of the report's histogram.
    max_border_area, max_text_area: shares of the frame. A plain backdrop is a border too.
    max_watermark: of watermark_score.
    nsfw: the tags that are kept, where the corpus has tags; an example without one is dropped.
    keep_duplicates: whether copies stay.
  """

  min_short_side: int = 336
  min_duration: float = 1.0
  min_motion: float | None = None
  max_motion: float | None = None
  max_border_area: float | None = None
  max_text_area: float | None = None
  max_watermark: float | None = None
  nsfw: tuple[str, ...] = ('UNLIKELY',)
  keep_duplicates: bool = False


def curate(
  directory: str,
  rules: Rules | None = None,
  denylists: Sequence[str] = (),
  allow_no_denylist: str = '',
  hooks: Mapping[str, str] | None = None,
  num_processes: int = 2,
  beam_flags: Sequence[str] = (),
) -> dict:
  """Measures the corpus in `directory` and writes sidecar/curate/ there.

  Args:
    directory: an ingested corpus, on a disk or in a bucket.
    rules: what to keep.
    denylists: files of what must not be used (denylist.py); needed for images from the web.
    allow_no_denylist: why there is none; it is written into the manifest.
    hooks: column of schema.CURATE -> 'module:function' (measure.py).
    num_processes, beam_flags: see jobs.run.
  Returns:
    The stage's manifest: counts, the funnel, rules and lists.
  Raises:
    ValueError: if the folder holds no corpus, a hook cannot be loaded, or a denylist is missing.
  """
  rules, hooks, output = rules or Rules(), dict(hooks or {}), epath.Path(directory)
  manifest = corpus.read_manifest(directory)
  _check_hooks(hooks)
  shards = [
    (split, shard) for split, found in manifest['splits'].items() for shard in found['shards']
  ]
  base = [storage.read_table(output / shard['sidecar']) for _, shard in shards]
  reason = _denylist_or_reason(base, denylists, allow_no_denylist)
  denied = denylist.load(denylists)

  measured_in = output / '_measured'
  jobs.claim(measured_in, json.dumps([VERSION, manifest['fingerprint'], hooks]))
  work = MeasureShard(output, hooks)
  jobs.run(work, [shard for _, shard in shards], measured_in, num_processes, beam_flags)
  work.close()
  parts = [jobs.part(measured_in, index) / 'measured.parquet' for index in range(len(shards))]
  measured = [storage.read_table(part) for part in parts]

  rows = [
    known | found
    for known_table, found_table in zip(base, measured, strict=True)
    for known, found in zip(known_table.to_pylist(), found_table.to_pylist(), strict=True)
  ]
  held_out = [split != 'train' for split, shard in shards for _ in range(shard['num_examples'])]
  _decide(rows, held_out, rules, denied)
  marker = output / 'sidecar' / STAGE / 'manifest.json'
  if marker.exists():  # While the sidecars change, there is none.
    marker.unlink()
  done = 0
  for _, shard in shards:
    part = rows[done : done + shard['num_examples']]
    done += len(part)
    table = pa.Table.from_pylist(part, schema.CURATE)
    storage.write_table(output / schema.stage_sidecar(STAGE, shard['sidecar']), table)
  summary = dict(
    version=VERSION,
    corpus=manifest['fingerprint'],
    rules=dataclasses.asdict(rules),
    hooks=hooks,
    denylists={str(path): storage.sha256(epath.Path(path)) for path in denylists},
    no_denylist=reason,
    num_examples=len(rows),
    num_kept=sum(row['keep'] for row in rows),
    funnel=_funnel(rows),
    flags=_count(flag for row in rows for flag in row['flags']),
  )
  storage.write_bytes(marker, json.dumps(summary, indent=2).encode())
  return summary


class MeasureShard:
  """(shard of the manifest, folder) -> measured.parquet, one row per record."""

  def __init__(self, output: epath.Path, hooks: Mapping[str, str]):
    self._output = output
    self._hooks = hooks
    self._measure = sandbox.Sandbox(_measure)

  def __call__(self, shard: dict, folder: pathlib.Path) -> dict:
    """Damaged media becomes a row with the flag damaged:REASON."""
    sidecar = storage.read_table(self._output / shard['sidecar']).to_pylist()
    rows = []
    found = records.read(self._output / shard['records'])
    for known, record in zip(sidecar, found, strict=True):
      row: dict[str, Any] = dict(key=known['key'], flags=_flags(known, record))
      try:
        if isinstance(record, Exception):
          raise decode.DecodeError('record', str(record))
        row['caption_length'] = len(record['caption'])
        row.update(self._measure(record['data'], known['media'], known['fps'], self._hooks))
      except decode.DecodeError as error:
        logging.warning('%s: %s', known['key'], error)
        row['flags'].append(f'damaged:{error.reason}')
      rows.append(row)
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema.CURATE), folder / 'measured.parquet')
    return dict(num_examples=len(rows))

  def close(self) -> None:
    """Ends the child that decodes."""
    self._measure.close()


def _measure(data, media, fps, hooks):
  from data_pipelines import measure  # OpenCV and PySceneDetect: only where they are used.

  return measure.measure(data, media, fps, hooks)


def _check_hooks(hooks):
  from data_pipelines import measure

  for name, path in hooks.items():
    if name not in ('text_area', 'watermark_score'):
      raise ValueError(
        f'hook for {name!r}: only text_area and watermark_score are filled by hooks.'
      )
    measure.load_hook(path)


def _denylist_or_reason(base, denylists, reason):
  """Raises if images from the web come without a list of what must not be used."""
  num_web = sum(
    row['media'] == 'image' and bool(row['url'] or row['nsfw'])
    for table in base
    for row in table.select(['media', 'url', 'nsfw']).to_pylist()
  )
  if denylists or not num_web:
    return ''
  if not reason:
    raise ValueError(
      f'{num_web} images come from the web (they have links or NSFW tags, as LAION has). LAION '
      'links to illegal material, which Re-LAION leaves out: give --denylist=FILE with what to '
      'drop, or --allow-no-denylist=REASON, which is kept in the manifest.'
    )
  return reason


def _flags(known, record):
  flags = ['variable_rate'] if known['is_variable_rate'] else []
  if not isinstance(record, Exception):
    caption = record['caption']
    flags += ['caption_empty'] * (not caption.strip())
    flags += ['caption_long'] * (len(caption) > MAX_CAPTION)
    flags += ['caption_not_utf8'] * ('\ufffd' in caption)
  return flags


def _decide(rows, held_out, rules, denied):
  """Fills keep, reject, dup_group and watermark_score."""
  from data_pipelines import duplicates

  has_tags = any(row['nsfw'] for row in rows)
  groups = duplicates.groups(
    [row['sha256'] for row in rows], [row['hashes'] or [] for row in rows]
  ).tolist()
  denied_groups = {
    g for row, g in zip(rows, groups, strict=True) if denylist.is_denied(row, denied)
  }
  best: dict[int, tuple] = {}
  for index, (row, group) in enumerate(zip(rows, groups, strict=True)):
    if row['watermark_score'] is None:
      row['watermark_score'] = row['watermark']
    row['dup_group'] = group
    row['reject'] = _broken_rules(row, rules, has_tags, group in denied_groups)
    # The one of most pixels; a held-out one before all, so that training cannot see its copy.
    rank = (not row['reject'], held_out[index], row['height'] * row['width'], -index)
    best[group] = max(best.get(group, rank), rank)
  for index, row in enumerate(rows):
    if best[row['dup_group']][-1] != -index and not rules.keep_duplicates:
      row['reject'].append('duplicate')
    row['keep'] = not row['reject']


def _broken_rules(row, rules, has_tags, is_denied):
  is_video = row['media'] == 'video'
  length = (row['span_end'] or 0.0) - (row['span_start'] or 0.0)
  broken = dict(
    damaged=any(flag.startswith('damaged:') for flag in row['flags']),
    denylist=is_denied,
    nsfw=has_tags and row['media'] == 'image' and row['nsfw'] not in rules.nsfw,
    resolution=min(row['height'], row['width']) < rules.min_short_side,
    duration=is_video and length < rules.min_duration - 1e-6,
    motion=is_video and not _within(row['motion'], rules.min_motion, rules.max_motion),
    border=not _within(row['border_area'], None, rules.max_border_area),
    text=not _within(row['text_area'], None, rules.max_text_area),
    watermark=not _within(row['watermark_score'], None, rules.max_watermark),
  )
  return [rule for rule, is_broken in broken.items() if is_broken]


def _within(value, low, high):
  return value is None or ((low is None or value >= low) and (high is None or value <= high))


def _funnel(rows):
  """Per rule: how many break it, and how many have passed it and all before."""
  funnel, left = [], rows
  for rule in RULES:
    left = [row for row in left if rule not in row['reject']]
    num_broken = sum(rule in row['reject'] for row in rows)
    funnel.append(dict(rule=rule, num_broken=num_broken, num_left=len(left)))
  return funnel


def _count(names):
  counts: dict[str, int] = {}
  for name in names:
    counts[name] = counts.get(name, 0) + 1
  return counts


def add_command(commands) -> None:
  """Adds `curate` to the command line."""
  text = 'Measure a corpus (shots, motion, subject, copies) and say what is worth training on.'
  parser = commands.add_parser('curate', help=text, description=text)
  parser.add_argument('--corpus', dest='directory', required=True, help='folder that ingest wrote')
  for field in dataclasses.fields(Rules):
    if field.name == 'nsfw':
      parser.add_argument('--nsfw', default='UNLIKELY', help='LAION tags to keep, with commas')
    elif field.name == 'keep_duplicates':
      parser.add_argument('--keep_duplicates', action='store_true')
    else:
      kind = int if field.name == 'min_short_side' else float
      parser.add_argument(f'--{field.name}', type=kind, default=field.default, help='%(default)s')
  lists = dict(action='append', default=[])
  text = 'Parquet, CSV or text file of links or hashes to drop; may be repeated'
  parser.add_argument('--denylist', dest='denylists', metavar='FILE', help=text, **lists)
  text = 'why images from the web need none'
  parser.add_argument('--allow-no-denylist', metavar='REASON', default='', help=text)
  text = 'text_area=module:function or watermark_score=module:function'
  parser.add_argument('--hook', dest='hooks', metavar='COLUMN=FUNCTION', help=text, **lists)
  parser.add_argument('--dry_run', action='store_true', help='only say what would be done')
  jobs.add_flags(parser)
  parser.set_defaults(run=_run_command)


def _run_command(directory, denylists, allow_no_denylist, hooks, dry_run, num_processes, beam_flags,
                 **rules):  # fmt: skip
  start = time.monotonic()
  hooks = dict(hook.partition('=')[::2] for hook in hooks)
  rules = Rules(**dict(rules, nsfw=tuple(rules['nsfw'].split(','))))
  if dry_run:
    manifest = corpus.read_manifest(directory)
    num_shards = sum(len(found['shards']) for found in manifest['splits'].values())
    num_done = sum(1 for _ in (epath.Path(directory) / '_measured').glob(f'*/{jobs.MARKER}'))
    print(f'{directory}: {num_shards} shards, {num_done} measured; {rules}; nothing was written')
    return
  summary = curate(directory, rules, denylists, allow_no_denylist, hooks, num_processes, beam_flags)
  for step in summary['funnel']:
    if step['num_broken']:
      print(f'{step["rule"]:>12}: {step["num_broken"]:,} rejected, {step["num_left"]:,} left')
  print(f'{directory}: {summary["num_kept"]:,} of {summary["num_examples"]:,} kept, '
        f'{time.monotonic() - start:.1f} s')  # fmt: skip
