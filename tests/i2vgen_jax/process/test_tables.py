"""Names that are read from source files are those that the code has."""

import pytest

from i2vgen_jax import conditions, export, finetune, precompute
from i2vgen_jax.pretrained import read
from i2vgen_jax.process import tables


@pytest.mark.parametrize(
  ('file', 'table', 'imported'),
  [
    ('i2vgen_jax/export.py', 'FORMATS', export.FORMATS),
    ('i2vgen_jax/export.py', 'DTYPES', export.DTYPES),
    ('i2vgen_jax/precompute.py', 'DTYPES', precompute.DTYPES),
    ('i2vgen_jax/finetune.py', 'PARTS', finetune.PARTS),
    ('i2vgen_jax/pretrained/read.py', 'NETWORKS', read.NETWORKS),
  ],
)
def test_flags_take_the_names_that_the_code_takes(file, table, imported):
  assert tables.names(file, table) == list(imported)


def test_sample_has_the_flags_of_the_conditions():
  found = tables.of_classes('i2vgen_jax/conditions', 'flags')
  assert found == conditions.flags() and 'last_image' in found


def test_a_table_that_is_not_there_is_named():
  with pytest.raises(KeyError, match='export.py assigns no NOTHING'):
    tables.names('i2vgen_jax/export.py', 'NOTHING')
