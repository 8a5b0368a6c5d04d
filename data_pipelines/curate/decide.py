"""Which examples are kept: rules on each by itself, and copies, which takes all of them together.

Passes over the shards: the first leaves 150 bytes per example in files, what copies are proposed
and ranked by; the second, the fingerprints of those that are proposed; the last gives each shard's
rows their decisions, and forgets them. Rows are compared in blocks (grouping.py), so that memory
holds some numbers of each row only.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.corpus import schema
from data_pipelines.curate import columns, denylist, duplicates, grouping, proof

# In the order of the funnel.
RULES = (
  'damaged', 'denylist', 'allowlist', 'nsfw', 'resolution', 'duration', 'motion', 'border', 'text',
  'watermark', 'duplicate',
)  # fmt: skip
MAX_EXAMPLES = 3  # Named for each rule.


@dataclasses.dataclass(frozen=True)
class Rules:
  """What is kept. None lets everything pass, and so does a value that is not known.

  Attributes:
    min_short_side: pixels of the shorter side. WebVid's previews have 336, so 360 drops them.
    min_duration: seconds of a single shot.
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

  def reasons(self) -> dict[str, str]:
    """By rule of RULES: what it drops, and by which flag of `curate` that changes."""
    return dict(
      damaged='it cannot be decoded',
      denylist='named by --denylist',
      allowlist='not named by --allowlist',
      nsfw=f'its tag is none of --nsfw={",".join(self.nsfw)}',
      resolution=f'its short side is below --min_short_side={self.min_short_side} pixels',
      duration=f'its longest single shot is under --min_duration={self.min_duration} seconds',
      motion='its motion is outside of '
      + ' and '.join(
        f'--{name}={value}'
        for name, value in (('min_motion', self.min_motion), ('max_motion', self.max_motion))
        if value is not None
      ),
      border=f'its plain borders exceed --max_border_area={self.max_border_area}',
      text=f'its text exceeds --max_text_area={self.max_text_area}',
      watermark=f'its watermark score exceeds --max_watermark={self.max_watermark}',
      duplicate='a copy of another, which is kept or held out; --keep_duplicates keeps it',
    )


class Decisions:
  """Decisions on the examples of shards.

  Args:
    read: number of a shard -> its rows, columns of schema.SIDECAR and schema.CURATE.
    is_held_out: of each shard.
    rules: what to keep.
    denied: what must not be used (denylist.py).
    allowed: all that may be used; empty lists allow everything.
    read_prints: (number of a shard, places in it) -> `hashes` and `points` of these of its rows;
      `read` says them too, and all else.
    has_tags: whether the corpus has NSFW tags.

  Attributes:
    num_examples, num_kept, num_spans_kept, flags: counts of the shards that `rows` was asked for;
      an image is one span.
    shots: of these shards, changes with where any shot begins or ends.
  """

  def __init__(
    self,
    read: Callable[[int], list[dict]],
    is_held_out: Sequence[bool],
    rules: Rules,
    denied: denylist.Lists,
    has_tags: bool,
    allowed: denylist.Lists | None = None,
    read_prints: Callable[[int, np.ndarray], list[dict]] | None = None,
  ):
    self._read = read
    self._read_prints = read_prints or self._rows_at
    self._rules = rules
    self._has_tags = has_tags
    self.num_examples = self.num_kept = self.num_spans_kept = 0
    self.flags: collections.Counter = collections.Counter()
    self._shots = hashlib.sha256()
    self._num_broken: collections.Counter = collections.Counter()
    self._examples: dict[str, list[str]] = {rule: [] for rule in RULES}
    self._num_stopped: collections.Counter = collections.Counter()
    self._denied, self._allowed = denied, allowed
    self._starts = np.zeros(len(is_held_out) + 1, np.int64)
    facts = columns.Columns(_FACTS)
    for shard, held_out in enumerate(is_held_out):
      facts.append(self._facts(read(shard), held_out))
      self._starts[shard + 1] = len(facts)
    facts_N = facts.mapped()
    self._is_allowed_N = facts_N['is_allowed']
    self._group_N, self._is_denied_N, self._is_copy_N = _compare(facts_N, self._evidence)

  def rows(self, shard: int) -> list[dict]:
    """The rows of a shard, with keep, reject, dup_group and watermark_score."""
    rows, start = self._read(shard), self._starts[shard]
    for index, row in enumerate(rows, start):
      if row['watermark_score'] is None:
        row['watermark_score'] = row['watermark']
      row['dup_group'] = int(self._group_N[index])
      listed = bool(self._is_denied_N[index]), bool(self._is_allowed_N[index])
      is_copy = bool(self._is_copy_N[index]) and not self._rules.keep_duplicates
      for part in _parts(row):
        part['reject'] = _broken_rules(_with(row, part), self._rules, self._has_tags, *listed)
        part['reject'] += ['duplicate'] * is_copy
        part['keep'] = not part['reject']
      row |= _best(row)
      times = [(part['span_start'], part['span_end']) for part in row.get('spans') or ()]
      self._shots.update(f'{times}'.encode())
      self.num_kept += row['keep']
      self.num_spans_kept += sum(part['keep'] for part in _parts(row))
      self._num_broken.update(row['reject'])
      self._num_stopped.update(row['reject'][:1])
      for rule in row['reject']:
        if len(self._examples[rule]) < MAX_EXAMPLES:
          self._examples[rule].append(row['key'])
      self.flags.update(row['flags'])
    self.num_examples += len(rows)
    return rows

  @property
  def shots(self) -> str:
    """16 hex digits."""
    return self._shots.hexdigest()[:16]

  def funnel(self) -> list[dict]:
    """Per rule: how many break it, why and which, and how many have passed it and all before."""
    found, left, reasons = [], self.num_examples, self._rules.reasons()
    for rule in RULES:
      left -= self._num_stopped[rule]
      step = dict(rule=rule, num_broken=self._num_broken[rule], num_left=left)
      found.append(step | dict(reason=reasons[rule], examples=self._examples[rule]))
    return found

  def _facts(self, rows: Sequence[Mapping], is_held_out: bool) -> np.ndarray:
    facts = np.zeros(len(rows), _FACTS)
    facts['is_held_out'] = is_held_out
    for fact, row in zip(facts, rows, strict=True):
      fact['digest'] = np.frombuffer(bytes.fromhex(row['sha256'])[:16], np.uint64)
      fact['print'] = duplicates.print_of(row)
      fact['num_pixels'] = row['height'] * row['width']
      fact['num_bytes'] = row['num_bytes']
      fact['is_denied'] = bool(self._denied) and self._denied.names(row)
      fact['is_allowed'] = not self._allowed or self._allowed.names(row)
      score = row['watermark'] if row['watermark_score'] is None else row['watermark_score']
      row = dict(row, watermark_score=score)
      is_allowed = bool(fact['is_allowed'])
      fact['is_good'] = not all(
        _broken_rules(_with(row, part), self._rules, self._has_tags, False, is_allowed)
        for part in _parts(row)
      )
    return facts

  def _rows_at(self, shard: int, places: np.ndarray) -> list[dict]:
    rows = self._read(shard)
    return [rows[place] for place in places]

  def _evidence(self, indices: np.ndarray) -> Iterator[proof.Evidence]:
    shard_N = np.searchsorted(self._starts, indices, side='right') - 1
    for shard in np.unique(shard_N).tolist():
      places = indices[shard_N == shard] - self._starts[shard]
      yield from map(proof.Evidence.of, self._read_prints(shard, places))


_FACTS = np.dtype(
  [
    ('digest', np.uint64, 2),  # Half of the sha256: two files in 1e9 share it once in 1e20.
    ('print', duplicates.PRINT),
    ('num_pixels', np.int64),
    ('num_bytes', np.int64),
    ('is_held_out', bool),
    ('is_denied', bool),
    ('is_allowed', bool),
    ('is_good', bool),  # No rule is against it, but for its copies.
  ]
)


def _compare(
  facts_N: Mapping[str, np.ndarray],
  evidence_of: Callable[[np.ndarray], Iterator[proof.Evidence]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(group of copies, whether one of it is denied, whether a better one of it is there)."""
  group_N = duplicates.groups(facts_N['digest'], facts_N['print'], evidence_of)
  has_copies_N, is_denied_N = np.zeros((2, len(group_N)), bool)  # At first of groups, by name.
  for block in grouping.blocks(len(group_N)):
    names = group_N[block]
    has_copies_N[names[names != np.arange(block.start, block.stop)]] = True
    is_denied_N[names[facts_N['is_denied'][block]]] = True
  for block in grouping.blocks(len(group_N)):  # A group's name is its first row.
    has_copies_N[block] = has_copies_N[group_N[block]]
    is_denied_N[block] = is_denied_N[group_N[block]]
  rows = np.flatnonzero(has_copies_N)
  # The best of a group is first: a good one, then a held-out one, so that training cannot see its
  # copy, then the one of most pixels, then of most bytes (per pixel, or of more seconds), then the
  # first.
  keys = [
    group_N[rows],
    ~(facts_N['is_good'][rows] & ~is_denied_N[rows]),
    ~facts_N['is_held_out'][rows],
    np.iinfo(np.int64).max - facts_N['num_pixels'][rows],
    np.iinfo(np.int64).max - facts_N['num_bytes'][rows],
  ]
  is_copy_N = has_copies_N
  for places, [names, *_], num_before in grouping.neighbours(keys, 1):
    is_best = np.diff(names.astype(np.int64), prepend=-1) != 0
    is_best[:num_before] = False
    is_copy_N[rows[places[is_best]]] = False
  return group_N, is_denied_N, is_copy_N


def _parts(row: dict) -> list[dict]:
  """What is decided on: the spans of a video, or the row itself where there are none."""
  return row.get('spans') or [row]


def _with(row: dict, part: dict) -> dict:
  return row if part is row else row | part


def _best(row: dict) -> dict:
  """The decision and the columns of SPAN of the longest span that is kept, or of the longest."""
  if not row.get('spans'):
    return {}
  names = ['keep', 'reject', *(name for name, _ in schema.SPAN)]
  length = lambda span: (span['keep'], span['span_end'] - span['span_start'])  # noqa: E731
  best = max(row['spans'], key=length)
  return {name: best[name] for name in names}


def _broken_rules(
  row: Mapping, rules: Rules, has_tags: bool, is_denied: bool, is_allowed: bool
) -> list[str]:
  is_video = row['media'] == 'video'
  length = (row['span_end'] or 0.0) - (row['span_start'] or 0.0)
  broken = dict(
    damaged=any(flag.startswith('damaged:') for flag in row['flags']),
    denylist=is_denied,
    allowlist=not is_allowed,
    nsfw=has_tags and row['media'] == 'image' and row['nsfw'] not in rules.nsfw,
    resolution=min(row['height'], row['width']) < rules.min_short_side,
    duration=is_video and (row['span_end'] is None or length < rules.min_duration - 1e-6),
    motion=is_video and not _within(row['motion'], rules.min_motion, rules.max_motion),
    border=not _within(row['border_area'], None, rules.max_border_area),
    text=not _within(row['text_area'], None, rules.max_text_area),
    watermark=not _within(row['watermark_score'], None, rules.max_watermark),
  )
  return [rule for rule, is_broken in broken.items() if is_broken]


def _within(value: float | None, low: float | None, high: float | None) -> bool:
  return value is None or ((low is None or value >= low) and (high is None or value <= high))
