"""Every field of a config has words that hold, and docs/config.md is what the code makes."""

import pathlib
import re

import pytest

from data_pipelines.corpus import schema
from i2vgen_jax import conditions
from i2vgen_jax import config_reference as reference
from i2vgen_jax.diffusion import parameterization, sampler, schedule
from i2vgen_jax.models import clip, t5, unet3d
from i2vgen_jax.parallel import xla_profiles
from i2vgen_jax.process import config_flag, ranges, tables
from i2vgen_jax.stored import run_config
from i2vgen_jax.training import optimizer

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = {field.name: field for field in reference.fields()}
# The tables of config_reference.TABLES, as the code imports them.
IMPORTED = {
  ('i2vgen_jax/models/unet3d.py', 'POLICIES'): unet3d.POLICIES,
  ('i2vgen_jax/models/clip.py', 'ACTIVATIONS'): clip.ACTIVATIONS,
  ('i2vgen_jax/models/t5.py', 'ACTIVATIONS'): t5.ACTIVATIONS,
  ('i2vgen_jax/diffusion/schedule.py', 'KINDS'): schedule.KINDS,
  ('i2vgen_jax/diffusion/parameterization.py', 'TO_X0_EPS'): parameterization.TO_X0_EPS,
  ('data_pipelines/corpus/schema.py', 'MEDIA'): schema.MEDIA,
  ('i2vgen_jax/training/optimizer.py', 'KINDS'): optimizer.KINDS,
  ('i2vgen_jax/training/optimizer.py', 'SCHEDULES'): optimizer.SCHEDULES,
  ('i2vgen_jax/parallel/xla_profiles.py', 'PROFILES'): xla_profiles.PROFILES,
  ('i2vgen_jax/diffusion/sampler.py', 'KINDS'): sampler.KINDS,
  ('i2vgen_jax/diffusion/sampler.py', 'SPACINGS'): sampler.SPACINGS,
}


@pytest.mark.parametrize('config', reference.configs(), ids=lambda name: name or 'common')
def test_every_field_of_a_config_has_words(config):
  for name, value in reference.configs()[config].items():
    found = [each for each in FIELDS if re.fullmatch(reference.pattern_of(each), name)]
    assert len(found) == 1, f'{name}: describe it in configs/words/.'
    assert FIELDS[found[0]].is_block == (value == {}), name
    assert FIELDS[found[0]].words.endswith('.')


def test_the_shipped_configs_are_all_read():
  known = {f'configs/{name}.py' for name in reference.configs() if name}
  assert known == set(config_flag.shipped()) - {reference.FINETUNE} and len(known) > 9


@pytest.mark.parametrize('name', FIELDS)
def test_words_are_of_a_field_that_a_config_has_and_that_its_reader_reads(name):
  field = FIELDS[name]
  names = {each for flat in reference.configs().values() for each in flat}
  assert any(re.match(rf'{reference.pattern_of(name)}([.]|$)', each) for each in names)
  assert (ROOT / field.reader).exists() and (field.is_block or field.values)
  parts = [part for part in name.split('.')[-2:] if not part.isupper()]
  text = (ROOT / field.reader).read_text()
  assert field.is_block or re.search(rf'\b({"|".join(parts)})\b', text), field.reader


@pytest.mark.parametrize('name', [name for name in FIELDS if FIELDS[name].values])
def test_a_value_that_a_config_has_is_one_that_the_reference_allows(name):
  field = FIELDS[name]
  for value in field.values.values():
    if name in ranges.RANGES:
      ranges.check_number(name, value)
    elif name in (*reference.TABLES, *ranges.DTYPES):
      assert (value or "''") in field.allowed.split(', ')
    elif name == 'unet.conditioners':
      assert {line['kind'] for line in value} <= set(field.allowed.split(', '))
    elif type(value) in reference.TYPES:
      assert reference.TYPES[type(value)] in field.allowed


def test_names_are_those_that_the_code_takes():
  assert {places[:2] for places in reference.TABLES.values()} == set(IMPORTED)
  for (file, table), imported in IMPORTED.items():
    assert tables.names(file, table) == list(imported), table
  assert reference.conditioners() == conditions.kinds()
  assert set(ranges.RANGES) | set(ranges.DTYPES) | set(reference.TABLES) <= set(FIELDS)


def test_what_may_change_on_resuming_is_said_of_the_fields_that_may():
  assert FIELDS['data.directories.NAME'].resumes and not FIELDS['data.buckets.NAME.fps'].resumes
  for pattern in run_config.RESUMABLE.pattern.split('|'):
    word = re.search(r'[a-z]\w{2,}', pattern)[0]
    assert any(field.resumes and word in field.name for field in FIELDS.values()), pattern


def test_the_page_is_what_the_code_makes():
  made, kept = reference.page(), (ROOT / 'docs' / 'config.md').read_text()
  assert made == kept, 'run python -m i2vgen_jax.config_reference --output=docs/config.md'
  assert made.count('\n| `') == sum(not field.is_block for field in FIELDS.values())


def test_a_word_finds_fields_by_name_and_by_meaning():
  assert [field.name for field in reference.matching('WARMUP_STEPS')] == ['optimizer.warmup_steps']
  assert 'train.skip_norm' in [field.name for field in reference.matching('median')]
  shown = reference.text(reference.matching('ema_warmup'))
  assert '--config.train.ema_warmup' in shown and 'True in demo, refine_demo' in shown
  with pytest.raises(ValueError, match='--help_config=nonsense: no field has it'):
    reference.matching('nonsense')
