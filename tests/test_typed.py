"""The count of annotated functions counts what it says."""

import re

import pytest

from tests import typed


@pytest.mark.parametrize(
  ('code', 'expected'),
  [
    ('def f(x: int) -> int: ...', {'f': True}),
    ('def f(x: int): ...', {'f': False}),
    ('def f(x, y: int) -> int: ...', {'f': False}),
    ('def f(*x, **y) -> int: ...', {'f': False}),
    ('def f(*, x) -> int: ...', {'f': False}),
    ('def f(x, /) -> int: ...', {'f': False}),
    ('def f(x: int, /, *y: int, z: int, **w: int) -> int: ...', {'f': True}),
    ('def _f(x): ...', {}),
    ('def f() -> int:\n  def g(x): ...', {'f': True}),
    ('if True:\n  async def f(x): ...', {'f': False}),
    ('if True:\n  pass\nelse:\n  def f(x): ...', {'f': False}),
    ('try:\n  def f(x): ...\nexcept E:\n  def f() -> int: ...', {'f': False, 'f ': True}),
    ('class A:\n  def f(self, x: int) -> int: ...', {'A.f': True}),
    ('class A:\n  @staticmethod\n  def f(x) -> int: ...', {'A.f': False}),
    ('class A:\n  @classmethod\n  def f(cls) -> int: ...', {'A.f': True}),
    ('class A:\n  @property\n  def f(self): ...', {'A.f': False}),
    ('class A:\n  def __init__(self, x: int): ...', {'A.__init__': True}),
    ('class A:\n  def __init__(self, x): ...', {'A.__init__': False}),
    ('class A:\n  def __call__(self, x: int): ...', {'A.__call__': False}),
    ('class A:\n  def __eq__(self, x): ...\n  def _f(self, x): ...', {}),
    ('class _A:\n  def f(self, x): ...', {}),
    ('class A:\n  class B:\n    def f(self) -> int: ...', {'A.B.f': True}),
  ],
)
def test_public_functions_are_counted_as_typed_when_all_of_them_is(code, expected):
  counted = typed.count(code)
  assert [(name.partition(':')[0], value) for name, value in counted.items()] == [
    (name.strip(), value) for name, value in expected.items()
  ]


def test_below_the_floor_the_command_fails(capsys):
  assert typed.main([]) == 0
  shares = re.findall(r'([\w ]+): (\d+) of (\d+) ', capsys.readouterr().out)
  (_, *first), (_, *second), (name, *total) = shares
  assert name == 'in all'
  assert [int(a) + int(b) for a, b in zip(first, second, strict=True)] == list(map(int, total))
  share = int(total[0]) / int(total[1])
  assert typed.main([f'--floor={share - 1e-6}']) == 0
  assert typed.main([f'--floor={share + 1e-6}']) == 1
