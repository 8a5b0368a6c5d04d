"""Lines with verdicts, of all hosts, for people and as JSON."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from i2vgen_jax.process import errors


@dataclasses.dataclass(frozen=True)
class Line:
  """What one check found.

  Attributes:
    name: of the check.
    ok: None where there is nothing to compare with.
    text: for people: the figure, and what to do if it is bad.
    figure: what was measured, if it is a number.
    wanted: what it was compared with.
  """

  name: str
  ok: bool | None
  text: str
  figure: float | None = None
  wanted: float | None = None

  def __str__(self) -> str:
    return f'{ {True: "ok", False: "FAIL", None: "-"}[self.ok]:5s} {self.name:28s} {self.text}'


def against(name: str, rates: Any, wanted: float | None, share: float, unit: str) -> Line:
  """Compares the slowest host's rate with what is wanted of each.

  Args:
    name: of the check.
    rates: one of each host.
    wanted: None compares with nothing.
    share: of what is wanted that is enough.
    unit: of the rates, which are shown in billions: 'GB/s'; or as they are: 'examples/s'.
  """
  rates = np.asarray(rates, np.float64).ravel()
  scale = 1e9 if unit.startswith('G') else 1.0
  slowest = int(rates.argmin())
  rate = float(rates[slowest])
  text = f'{rate / scale:.3g} {unit}'
  if len(rates) > 1:
    text += f' on host {slowest}, the slowest; {rates.max() / scale:.3g} on the fastest'
  if wanted is None:
    return Line(name, None, f'{text}; nothing is assumed of such devices', rate)
  text += f'; {wanted / scale:.3g} assumed'
  if rate < share * wanted:
    text += f': below {share:.0%} of it. Look at that host, or plan with less.'
  return Line(name, rate >= share * wanted, text, rate, wanted)


def of_all_hosts(values: Any) -> np.ndarray:
  """(hosts, ...) of a number or array of each; all hosts call this."""
  found = np.asarray(multihost_utils.process_allgather(np.asarray(values, np.float64)))
  return found.reshape(jax.process_count(), *np.shape(values))


def guarded(name: str, check: Callable[[], Iterable[Line]]) -> list[Line]:
  """The lines of a check, or one that says how it failed. A lost device or host is raised: the
  others cannot go on without it."""
  try:
    return list(check())
  except jax.errors.JaxRuntimeError:
    raise
  except Exception as error:  # Of any library: that it fails is what is looked for.
    message = errors.classify(error)[1] or f'{type(error).__name__}: {error}'
    return [Line(name, False, ' '.join(message.split()))]
