"""The data card says what an index draws, by whose leave, and what nobody knows."""

import json

import pytest

from data_pipelines import __main__ as commands
from data_pipelines.caption import command as caption
from data_pipelines.curate import command as curate
from data_pipelines.curate import decide
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from tests import corpora


@pytest.fixture
def directory(tmp_path):
  """Six videos of three licences, two of them told."""
  source = tmp_path / 'in'
  members = []
  for i in range(6):
    told = dict(url=f'https://{"ab"[i % 2]}.example.com/{i}.mp4')
    if i < 4:
      told['license'] = ('CC0 ', 'cc-by|4.0')[i % 2]
    members += [
      (f'{i}.mp4', corpora.video(i)),
      (f'{i}.txt', b'a caption'),
      (f'{i}.json', json.dumps(told).encode()),
    ]
  source.mkdir()
  corpora.write_tar(source / '0.tar', members)
  ingest.ingest(str(source), str(tmp_path / 'out'), validation_fraction=0.0, num_processes=1)
  return tmp_path / 'out'


def rows_of(text, title):
  """{first cell: the others} of the table under a title."""
  lines = text.partition(f'## {title}\n')[2].partition('\n## ')[0].splitlines()
  cells = [line.strip('| ').replace('\\|', '¦').split(' | ') for line in lines if line[:1] == '|']
  return {first.replace('¦', '|'): rest for first, *rest in cells[2:]}


def test_a_card_counts_what_is_drawn(directory, tmp_path):
  index.index(dict(mine=str(directory)), str(tmp_path / 'index'), where=['url is not null'])
  text = (tmp_path / 'index/card.md').read_text()
  assert rows_of(text, 'Licences that the sources tell') == {
    'CC0': ['2', '0'], 'cc-by|4.0': ['2', '0'], 'not told': ['2', '0'],
  }  # fmt: skip
  hosts = rows_of(text, 'Hosts of the links, the commonest')
  assert hosts == {'a.example.com': ['3', '0'], 'b.example.com': ['3', '0']}
  assert rows_of(text, 'Sources')['mine'][:3] == ['WebDataset', '6', '0']
  assert rows_of(text, 'Filters')['`url is not null`'] == ['6']
  for limit in (
    'Of 2 rows no source tells the licence.',
    'mine was not curated',
    '6 of 6 rows were not measured for watermarks.',
    'Whether persons',
  ):
    assert limit in text


def test_what_was_done_is_no_limit_any_more(directory, tmp_path):
  rules = decide.Rules(min_short_side=16, min_duration=0.1, keep_duplicates=True)
  denied = tmp_path / 'denied.txt'
  denied.write_text('https://a.example.com/0.mp4\n')
  curate.curate(str(directory), rules, [denied], num_processes=1)
  caption.caption(str(directory), weights=dict(alt=2))
  index.index(dict(mine=str(directory)), str(tmp_path / 'index'))
  text = (tmp_path / 'index/card.md').read_text()
  assert 'not curated' not in text
  assert 'mine was compared with denylists (SHA-256 ' in text
  assert 'Captions of mine by source and weight: alt 2.' in text
  assert rows_of(text, 'Licences that the sources tell')['CC0'] == ['1', '0']


def test_licences_that_are_allowed(directory, tmp_path, capsys):
  command = ['index', f'--corpus=mine={directory}', f'--output={tmp_path}/index']
  commands.main([*command, '--license_allow=cc0', '--license_allow=CC-BY|4.0'])
  assert '4 lower(trim(license)) IN' in capsys.readouterr().out
  text = (tmp_path / 'index/card.md').read_text()
  assert rows_of(text, 'Licences that the sources tell').keys() == {'CC0', 'cc-by|4.0'}
  assert 'no source tells the licence' not in text
  with corpora.ends_with_2('no row is left'):
    commands.main([*command, "--license_allow=o'ther"])
