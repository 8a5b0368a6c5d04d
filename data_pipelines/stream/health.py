"""Whether a corpus holds more bad examples than its budget: a test that may look at any time."""

import collections
import logging
import math
import threading

from scipy import special

# Chance that a corpus within its budget ends a run, ever, on one host.
ERROR = 1e-9


class DataError(ValueError):
  """More examples than allowed cannot be decoded."""


def log_evidence(num_bad: int, num_seen: int, budget: float) -> float:
  """Logarithm of how much better a larger share of bad examples explains the counts than `budget`.

  The likelihood ratio against `budget`, averaged over all larger shares alike (Robbins 1970). While
  the share is within the budget, it exceeds 1/e with a chance of at most e, however often it is
  looked at (Ville's inequality): repeated looks do not add up.

  Args:
    num_bad: of the examples seen.
    num_seen: examples.
    budget: share in [0, 1].
  """
  if num_bad <= budget * num_seen:
    return 0.0  # Or less: there is none.
  num_good = num_seen - num_bad
  larger = special.betaincc(num_bad + 1, num_good + 1, budget) / (1 - budget)
  average = special.betaln(num_bad + 1, num_good + 1) + math.log(larger)
  return float(average - special.xlogy(num_bad, budget) - special.xlog1py(num_good, -budget))


class Health:
  """Counts the examples of a run's steps that were decoded and those that were not.

  Two or more different examples are too many if they are a larger share of the whole corpus than
  the budget, or if the share of bad ones among those drawn is beyond it by `log_evidence`, at a
  confidence of 1 - ERROR for the whole run.

  Args:
    num_examples: of the corpora.
    max_bad_fraction: the budget.

  Attributes:
    max_tries: examples in one's place until that is an error.
    bad: reasons by key, since this process started.
    before: (seen, bad) draws before that, on all hosts.
    counted: (seen, bad) draws of the steps that were taken since, on this host.
  """

  def __init__(self, num_examples: int, max_bad_fraction: float):
    self.num_examples = num_examples
    self.max_bad_fraction = max_bad_fraction
    self.bad: dict[str, str] = {}
    self.before = self.counted = (0, 0)
    # So many in a row do not happen by chance to a corpus within its budget: 1e-20 for each.
    likely = min(max(max_bad_fraction, 0.006), 0.6)
    self.max_tries = math.ceil(math.log(1e-20) / math.log(likely))
    self._of_step: dict[int, list[int]] = collections.defaultdict(lambda: [0, 0])
    self._step = threading.local()
    self._lock = threading.Lock()

  def begin(self, step: int) -> None:
    """What this thread counts from now on is of this step, which is decoded ahead."""
    self._step.number = step
    self._of_step.pop(step, None)

  def count(self, key: str = '', reason: str = '') -> None:
    """Counts an example, and its key if there is a reason why it cannot be decoded.

    Raises:
      DataError: too many are bad in the steps that are taken and this one.
    """
    with self._lock:
      counts = self._of_step[self._step.number]
      counts[0] += 1
      counts[1] += bool(reason)
      if reason and key not in self.bad:
        self.bad[key] = reason
        logging.warning('%s cannot be decoded (%s): another example takes its place.', key, reason)
      if reason:  # A batch of which nothing can be decoded would be long under way.
        self._check(*counts)

  def take(self, step: int) -> None:
    """Adds up the counts of a step that is taken, so that what is decoded ahead does not matter.

    Raises:
      DataError: too many examples are bad.
    """
    with self._lock:
      seen, bad = self._of_step.pop(step)
      self.counted = (self.counted[0] + seen, self.counted[1] + bad)
      if bad:
        self._check(0, 0)

  def _check(self, more_seen: int, more_bad: int) -> None:
    if len(self.bad) < 2:
      return
    budget = self.max_bad_fraction
    num_seen = self.before[0] + self.counted[0] + more_seen
    num_bad = self.before[1] + self.counted[1] + more_bad
    if len(self.bad) > budget * self.num_examples:
      share = f'{len(self.bad)} of {self.num_examples} examples'
    elif log_evidence(num_bad, num_seen, budget) > -math.log(ERROR):
      share = f'{num_bad} of {num_seen} examples drawn'
    else:
      return
    raise DataError(
      f'{share} cannot be decoded, more than max_bad_fraction={budget:g}: {self.listing()} '
      'See what `verify` finds; put back copies of what is damaged, or ingest the input into '
      'another --output: that leaves it out.'
    )

  def listing(self) -> str:
    """Keys and reasons of the first few."""
    named = [f'{key} ({reason})' for key, reason in list(self.bad.items())[:10]]
    return ', '.join(named) + (', ...' if len(self.bad) > 10 else '.')
