"""Which of several endless streams gives each element of their mixture, by weights that may change.

A stream goes on where it was when the weights change: its epochs stay exact. All of it is
arithmetic on the index (half a microsecond per stream), so any element is found at once, anywhere.
"""

import bisect
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

# Of the smallest weight; the others are rounded to as much of it. Grain's own mix has 100 here.
_RESOLUTION = 10_000


class Mixture:
  """index -> (number of the stream, index in that stream).

  Within a phase as grain.MapDataset.mix does it: the same order for the same proportions.

  Args:
    phases: (first index, weight of each stream), ascending from 0 on; a stream of weight 0 rests.
      Of two that begin at one index, the later counts.
  """

  def __init__(self, phases: Sequence[tuple[int, Sequence[float] | np.ndarray]]):
    self._starts: list[int] = []
    self._proportions: list[list[int]] = []
    self._before: list[list[int]] = []
    for start, weights in phases:
      self._before.append(self.counts(start) if start else [0] * len(weights))
      smallest = min(weight for weight in weights if weight)
      self._proportions.append([round(w / smallest * _RESOLUTION) for w in weights])
      self._starts.append(start)

  def __getitem__(self, index: int) -> tuple[int, int]:
    phase = bisect.bisect_right(self._starts, index) - 1
    stream, position = _select(self._proportions[phase], index - self._starts[phase])
    return stream, self._before[phase][stream] + position

  def counts(self, index: int) -> list[int]:
    """How many of the elements before `index` each stream gives."""
    phase = bisect.bisect_right(self._starts, index) - 1
    left, remaining = index - self._starts[phase], sum(self._proportions[phase])
    found = []
    for before, proportion in zip(self._before[phase], self._proportions[phase], strict=True):
      others = left * (remaining - proportion) // remaining if remaining else 0
      found.append(before + left - others)
      left, remaining = others, remaining - proportion
    return found


def _select(proportions: Sequence[int], index: int) -> tuple[int, int]:
  """The stream whose count grows at the index, and its count before."""
  left, left_after, remaining = index, index + 1, sum(proportions)
  for stream, proportion in enumerate(proportions):
    others = left * (remaining - proportion) // remaining
    others_after = left_after * (remaining - proportion) // remaining
    if left_after - others_after != left - others:
      return stream, left - others
    left, left_after, remaining = others, others_after, remaining - proportion
  raise AssertionError('one of the counts grows with the index')


@dataclasses.dataclass(frozen=True)
class Phase:
  """What is drawn from a step on.

  Attributes:
    start: the step.
    buckets: shares of the steps, by name; those not named rest.
    sources: shares of a bucket's examples, by name of the corpus; those not named rest. Empty:
      by the corpora's rows and the index.
  """

  start: int
  buckets: Mapping[str, float]
  sources: Mapping[str, float]


def read_phases(
  phases: Sequence[Mapping[str, Any]],
  buckets: Mapping[str, float],
  sources: Mapping[str, float],
  corpora: Sequence[str],
) -> list[Phase]:
  """The phases of a run, from its config.

  Args:
    phases: (start, buckets, sources) as of Phase; what one leaves out is as in the phase before.
    buckets: weights by name, before the first of them.
    sources: weights by name of the corpus, likewise.
    corpora: their names.
  Raises:
    ValueError: an unknown name, a weight that is not positive, or steps that do not ascend.
  """
  found = [Phase(0, _floats(buckets), _floats(sources))]
  _check_weights('data.sources', sources, corpora)
  for number, phase in enumerate(phases):
    name = f'data.phases[{number}]'
    unknown = set(phase) - {'start', 'buckets', 'sources'}
    if unknown or 'start' not in phase:
      raise ValueError(
        f'{name} has the fields {sorted(phase)}; it needs start (a step), and takes buckets and '
        'sources (name -> weight).'
      )
    start = phase['start']
    if not isinstance(start, int) or start < 0 or (number and start <= found[-1].start):
      raise ValueError(
        f'{name}: start={start} should be a step after that of the phase before it '
        f'({found[-1].start}).'
      )
    _check_weights(f'{name}.buckets', phase.get('buckets', {}), buckets)
    _check_weights(f'{name}.sources', phase.get('sources', {}), corpora)
    merged = Phase(
      start,
      _floats(phase.get('buckets') or found[-1].buckets),
      _floats(phase.get('sources') or found[-1].sources),
    )
    found = [merged] if start == 0 else [*found, merged]
  return found


def _floats(weights: Mapping[str, float]) -> dict[str, float]:
  return {name: float(weight) for name, weight in weights.items()}


def _check_weights(name: str, weights: Mapping[str, float], known: Collection[str]) -> None:
  for key, weight in weights.items():
    if key not in known:
      raise ValueError(f'{name} names {key!r}; known: {", ".join(known)}.')
    if not weight > 0:
      raise ValueError(
        f'{name}: the weight {weight} of {key!r} should be > 0; leave it out to rest.'
      )
