"""Groups of copies side by side: the one that stays first, and why it is the better one.

The order is that of curate/decide.py: of those that no rule is against, a held-out one, so that
training cannot see its copy; then the one of most pixels, then of most bytes, then the first.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipelines import progress
from data_pipelines.corpus import reader, sidecars
from data_pipelines.report import examples
from data_pipelines.report import strips as strips_lib

MAX_COPIES = 6  # That are shown of one picture.
HELD_OUT = 'validation'
_LOST = "list_contains(reject, 'duplicate')"
_RANK = f'{_LOST}, height * width DESC, num_bytes DESC, row_number_'


def find(table: sidecars.Sidecars, corpus_starts: Sequence[int], num_groups: int) -> dict:
  """Groups of copies that the training split has a part of, the largest first.

  Args:
    table: of the corpora's training split.
    corpus_starts: first row of each corpus, and the number of rows.
    num_groups: how many are shown.
  Returns:
    num_groups, num_rows (both of the training split) and groups, of those that are shown: dicts of
    corpus (its number), dup_group, num_rows and rows (the best first).
  """
  if 'dup_group' not in table.columns:
    return dict(num_groups=0, num_rows=0, groups=[])
  corpus = ' + '.join(f'(row_number_ >= {start})::INTEGER' for start in corpus_starts[1:-1]) or '0'
  # Of a copy that is alone, the better one is held out.
  groups = (
    f'SELECT {corpus} AS corpus, dup_group, count(*) AS num_rows, '
    f'list(row_number_ ORDER BY {_RANK})[:{MAX_COPIES}] AS rows FROM sidecars '
    f'WHERE dup_group IS NOT NULL GROUP BY ALL HAVING count(*) > 1 OR bool_or({_LOST})'
  )
  [found] = table.rows(
    f'SELECT count(*) AS num_groups, coalesce(sum(num_rows), 0)::BIGINT AS num_rows FROM ({groups})'
  )
  shown = table.rows(
    f'SELECT * FROM ({groups}) ORDER BY num_rows DESC, corpus, dup_group LIMIT {num_groups}'
  )
  return found | dict(groups=shown)


def draw(
  gallery: examples.Gallery, directories: Mapping[str, str], found: Sequence[Mapping]
) -> list[dict]:
  """The groups of `find` with pictures: num_rows, and examples with `label` and `why`.

  Args:
    gallery: of the training split.
    directories: of the corpora, by name.
    found: groups.
  """
  with contextlib.ExitStack() as stack:
    held_out = [
      _held_out(stack, directory) if found else None for _, directory in sorted(directories.items())
    ]
    return [
      _group(gallery, held_out[group['corpus']], group)
      for group in progress.over(found, len(found), 'group of copies', 'drawing')
    ]


def _held_out(stack: contextlib.ExitStack, directory: str) -> examples.Gallery | None:
  """Of the held-out split of a corpus, if it has one that curate has seen."""
  if HELD_OUT not in reader.read_manifest(directory)['splits']:
    return None
  corpora = reader.Corpora(directory, HELD_OUT)
  table = sidecars.Sidecars(corpora)
  if 'dup_group' not in table.columns:
    return None
  return examples.Gallery(
    table, stack.enter_context(contextlib.closing(strips_lib.Strips(corpora)))
  )


def _group(
  gallery: examples.Gallery, held_out: examples.Gallery | None, group: Mapping
) -> dict[str, Any]:
  members = _members(gallery, group['rows'], '')
  if held_out:
    rows = held_out.table.rows(
      f'SELECT row_number_ FROM sidecars WHERE dup_group = {group["dup_group"]} '
      f'ORDER BY {_RANK} LIMIT {MAX_COPIES}'
    )
    members = _members(held_out, [row['row_number_'] for row in rows], HELD_OUT) + members
  members.sort(key=lambda member: 'duplicate' in member['reject'])  # Stable: held-out ones first.
  best, *others = members
  label = 'held out' if best['split'] else 'kept' if best['keep'] else 'dropped'
  first = dict(best, label=label, why=_rules(best))
  listed = [dict(other, label=_label(other), why=why_better(best, other)) for other in others]
  return dict(num_rows=group['num_rows'], examples=[first, *listed])


def _members(gallery: examples.Gallery, rows: Sequence[int], split: str) -> list[dict[str, Any]]:
  drawn = gallery([(row, None) for row in rows])
  return [dict(row, split=split, bytes_per_pixel=bytes_per_pixel(row)) for row in drawn]


def _label(member: Mapping[str, Any]) -> str:
  if 'duplicate' in member['reject']:
    return 'dropped'
  return 'kept too' if member['keep'] else 'dropped for itself'


def _rules(member: Mapping[str, Any]) -> str:
  broken = [rule for rule in member['reject'] if rule != 'duplicate']
  return f'breaks {", ".join(broken)}' if broken else ''


def why_better(best: Mapping[str, Any], other: Mapping[str, Any]) -> str:
  """What the better one of two copies has before the other, as decide.py ranks them; '' if the
  other one is no worse for being a copy.

  Args:
    best: a row of the sidecars, with split.
    other: likewise.
  """
  if 'duplicate' not in other['reject']:
    return _rules(other)
  if not _is_good(other) and _is_good(best):
    return f'this one {_rules(other)}'
  if best['split'] and not other['split']:
    return 'the better one is held out: training must not see its copy'
  if _pixels(best) != _pixels(other):
    return f'the better one has more pixels: {_size(best)}, this one {_size(other)}'
  if best['num_bytes'] == other['num_bytes']:
    return 'as many pixels and bytes: the first one stays'
  more = []
  if best['duration'] > other['duration']:
    more.append(f'it is longer: {best["duration"]:.3g} s, this one {other["duration"]:.3g} s')
  if bytes_per_pixel(best) > bytes_per_pixel(other):
    more.append(
      f'more bytes per pixel: {bytes_per_pixel(best):.2g}, this one {bytes_per_pixel(other):.2g}'
    )
  return ': '.join(['the better one has more bytes', *['; '.join(more)] * bool(more)])


def bytes_per_pixel(member: Mapping[str, Any]) -> float:
  """Of all frames together: how little was lost to compression."""
  return member['num_bytes'] / (_pixels(member) * max(1, member['num_frames']))


def _is_good(member: Mapping[str, Any]) -> bool:
  """Whether nothing is against one of its shots, but that it is a copy."""
  parts = member.get('spans') or [member]
  return any(set(part['reject']) <= {'duplicate'} for part in parts)


def _pixels(member: Mapping[str, Any]) -> int:
  return member['height'] * member['width']


def _size(member: Mapping[str, Any]) -> str:
  return f'{member["width"]}×{member["height"]}'
