"""The conditions of a model: the lines of `unet.conditioners` as classes.

The kind of a line is the name of a file in this folder, whose class is named alike, in CamelCase:
'image_tokens' is ImageTokens of image_tokens.py. A class from anywhere else that can be imported is
named by its module and itself: 'my_lab.conditions:DepthMap'.
"""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from i2vgen_jax.conditions import base

_OTHER_FILES = ('base', 'dropout', 'signals')


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a config.

  Attributes:
    kind: of the line.
    conditioner: its class.
    attributes: (name, value) of the class's own fields that the line sets.
  """

  kind: str
  conditioner: type[base.Conditioner]
  attributes: tuple[tuple[str, Any], ...] = ()

  @property
  def name(self) -> str:
    """The name of its parameters."""
    return name_of(self.kind)

  def make(self, **fields: Any) -> base.Conditioner:
    """The module, of the fields that all conditioners have and those of the line."""
    return self.conditioner(**dict(self.attributes), **fields, name=self.name)


def kinds() -> list[str]:
  """The conditioners in this folder."""
  return sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if module.name not in _OTHER_FILES and not module.name.startswith('_')
  )


def conditioner(kind: str) -> type[base.Conditioner]:
  """The class of a line's kind.

  Raises:
    ValueError: there is no such file, or no such class in it.
  """
  module, _, name = kind.rpartition(':')
  if not module:
    if kind not in kinds():
      raise ValueError(f'Unknown conditioner kind={kind!r}; known: {", ".join(kinds())}.')
    module = f'{__name__}.{kind}'
    name = ''.join(word.capitalize() for word in kind.split('_'))
  try:
    return getattr(importlib.import_module(module), name)
  except (ImportError, AttributeError) as error:
    raise ValueError(
      f'conditioner kind={kind!r}: {error}. A kind is a file of i2vgen_jax/conditions/, or '
      "'module:Class' of a class that can be imported."
    ) from error


def name_of(kind: str) -> str:
  """The name of a kind's parameters: 'image_tokens', and 'depth_map' of 'my_lab:DepthMap'."""
  return re.sub(r'(?<!^)(?=[A-Z])', '_', kind.rpartition(':')[2]).lower()


def read(lines: Iterable[Mapping[str, Any]]) -> tuple[Line, ...]:
  """The lines of a config's unet.conditioners.

  Raises:
    ValueError: a kind is unknown or stands twice, its class lacks a field, or no line makes context
      tokens.
  """
  found = []
  for line in lines:
    fields = dict(line)
    kind = fields.pop('kind')
    cls = conditioner(kind)
    own = set(cls.__dataclass_fields__) - set(base.Conditioner.__dataclass_fields__)
    unknown = sorted(set(fields) - own)
    if unknown:
      raise ValueError(f'conditioner {kind!r} has no field {unknown}; known: {sorted(own)}.')
    found.append(Line(kind, cls, tuple(fields.items())))
  names = [line.name for line in found]
  if len(set(names)) < len(names):
    raise ValueError(f'conditioners name a kind twice: {names}.')
  if not any(line.conditioner.route == 'context' for line in found):
    raise ValueError(f'conditioners={names}: cross-attention needs at least one context token.')
  return tuple(found)


def signal_classes(lines: Sequence[Line]) -> tuple[type[base.Signal], ...]:
  """The signals that the lines read, each once, in the order of their names.

  Raises:
    ValueError: two signals have the same name.
  """
  classes = {cls for line in lines for cls in line.conditioner.signals}
  by_name = {cls.name: cls for cls in classes}
  if len(by_name) < len(classes):
    raise ValueError(f'two signals have the same name: {sorted(cls.name for cls in classes)}.')
  return tuple(by_name[name] for name in sorted(by_name))


def flags() -> dict[str, str]:
  """Name -> help of the flags that the signals of this folder's conditioners have."""
  classes = signal_classes([Line(kind, conditioner(kind)) for kind in kinds()])
  return {name: text for cls in classes for name, text in cls.flags.items()}
