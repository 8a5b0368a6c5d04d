"""Named arrays of two trees, compared to the bit: how many, and the first difference."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

Arrays = Mapping[str, np.ndarray]
SHOWN = 80  # Characters of a value.


class Result(NamedTuple):
  """What `compare` found of one set of arrays."""

  num_arrays: int  # Compared: those of either side.
  num_bytes: int  # Of the reference.
  num_different: int
  first: str  # The first difference, for people; '' if there is none.
  num_left_out: int  # By name.


def compare(reference: Arrays, candidate: Arrays, left_out: Collection[str] = ()) -> Result:
  """Compares arrays by name; equal means equal names, types, shapes and bits.

  Args:
    reference: in the order in which the first difference is looked for.
    candidate: what should be the same.
    left_out: names that start with one of these are not compared.
  """
  names = [*reference, *(name for name in candidate if name not in reference)]
  compared = [name for name in names if not name.startswith(tuple(left_out))]
  differences = [difference(name, reference, candidate) for name in compared]
  found = [text for text in differences if text]
  num_bytes = sum(reference[name].nbytes for name in compared if name in reference)
  return Result(
    len(compared), num_bytes, len(found), found[0] if found else '', len(names) - len(compared)
  )


def difference(name: str, reference: Arrays, candidate: Arrays) -> str:
  """How two arrays of one name differ, in one line; '' if they are equal to the bit."""
  if name not in candidate:
    return f'{name}: only in the reference'
  if name not in reference:
    return f'{name}: only in the candidate'
  ours, theirs = np.asarray(candidate[name]), np.asarray(reference[name])
  if ours.dtype.kind == theirs.dtype.kind and ours.dtype.kind in 'US':
    return '' if ours.tolist() == theirs.tolist() else f'{name}: {_show(theirs)} -> {_show(ours)}'
  if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
    return f'{name}: {theirs.dtype}{list(theirs.shape)} -> {ours.dtype}{list(ours.shape)}'
  differs = _bits(ours) != _bits(theirs)
  if not differs.any():
    return ''
  flat = int(np.argmax(differs))
  index = [int(i) for i in np.unravel_index(flat, ours.shape)]
  values = f'{_show(theirs.reshape(-1)[flat])} -> {_show(ours.reshape(-1)[flat])}'
  return f'{name}{index}: {values} ({int(differs.sum()):,} of {ours.size:,} values differ)'


def _bits(array):
  """One row of bytes per element, compared as a whole: NaN equals NaN, 0.0 is not -0.0."""
  return np.ascontiguousarray(array).reshape(-1).view(f'V{array.dtype.itemsize}')


def _show(value):
  text = repr(value.item() if isinstance(value, np.ndarray | np.generic) else value)
  return text if len(text) <= SHOWN else f'{text[:SHOWN]}...'
