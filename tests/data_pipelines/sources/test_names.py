"""A file is found by its name however that is spelt; files that nothing names are named."""

import unicodedata

import pyarrow as pa
import pyarrow.parquet
import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines import sources
from data_pipelines.ingest import inspect
from data_pipelines.sources import files
from tests import corpora, emulators
from tests.corpora import read_all as read
from tests.corpora import write_files as write
from tests.data_pipelines.sources import test_tars

HEADER = 'videoid,page_dir,name\n'
FOLDER, STEM = 'café', 'naïve'
# Layout: (where its media are, lists of the one file).
LISTS = {
  'webvid': ('videos/', {'results.csv': f'{HEADER}{STEM},{FOLDER},red\n'}),
  'vgen_list': ('videos/', {'list.txt': f'{FOLDER}/{STEM}.mp4|||red\n'}),
  'paired': ('', {'videos.txt': f'{FOLDER}/{STEM}.mp4', 'prompts.txt': 'red'}),
  'csv': ('', {'metadata.csv': f'file_name,text\n{FOLDER}/{STEM}.mp4,red\n'}),
  'bare': ('', {'metadata.csv': f'file_name,text\n{STEM}.mp4,red\n'}),
  'txt': ('', {f'{FOLDER}/{STEM}.txt': 'red'}),
}


def spelt(form, files):
  """Names, and texts, in a normal form of Unicode."""
  change = lambda value: unicodedata.normalize(form, value) if isinstance(value, str) else value  # noqa: E731
  return {change(name): change(data) for name, data in files.items()}


@pytest.mark.parametrize('layout', LISTS)
@pytest.mark.parametrize('forms', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_a_name_is_one_however_its_accents_are_stored(tmp_path, layout, forms):
  """macOS lists an e and its accent, others one character."""
  where, lists = LISTS[layout]
  media = {f'{where}{FOLDER}/{STEM}.mp4': b'media'}
  write(tmp_path, spelt(forms[0], lists) | spelt(forms[1], media))
  taken, rejected = read(tmp_path)
  assert list(taken.values()) == ['red'] and not rejected
  assert sources.open_source(tmp_path).count_unlisted() == (0, [])


@pytest.mark.parametrize('layout', LISTS)
def test_two_files_whose_names_are_one_are_rejected_by_name(tmp_path, layout):
  where, lists = LISTS[layout]
  media = {f'{where}{FOLDER}/{STEM}.mp4': b'media'}
  write(tmp_path, lists | spelt('NFC', media))
  folder = tmp_path / where / FOLDER
  (folder / unicodedata.normalize('NFD', f'{STEM}.mp4')).write_bytes(b'other')
  taken, rejected = read(tmp_path)
  assert not taken and set(rejected.values()) == {'ambiguous_name'}


def test_members_whose_names_are_one_belong_to_one_key(tmp_path):
  composed, apart = (unicodedata.normalize(form, STEM) for form in ('NFC', 'NFD'))
  members = test_tars.example(composed, 'red', 'txt') + test_tars.example(apart, 'red', 'jpg')
  corpora.write_tar(tmp_path / '0.tar', members)
  assert read(tmp_path) == ({composed: 'red'}, {})
  corpora.write_tar(tmp_path / '0.tar', members + test_tars.example(composed, 'red', 'jpg'))
  assert set(read(tmp_path)[1].values()) == {'duplicate_member'}


def test_the_next_column_speaks_where_the_first_says_nothing(tmp_path):
  rows = [
    dict(caption='red', text='no', file_name='a.mp4', file=None),
    dict(caption=None, text='green', file_name='b.mp4', file='no.mp4'),
    dict(caption='', text='blue', file_name=None, file='c.mp4'),
    dict(caption=None, text=None, file_name='d.mp4', file=None),
  ]
  write(tmp_path, {f'{name}.mp4': b'media' for name in 'abcd'})
  pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / 'metadata.parquet')
  taken, rejected = read(tmp_path)
  assert taken == {'a.mp4': 'red', 'b.mp4': 'green', 'c.mp4': 'blue'}
  assert rejected == {'metadata.parquet:4': 'no_caption', 'd.mp4': 'no_caption'}
  said = [('1.json', b'{"caption": null, "text": "a dog"}'), ('1.jpg', b'media')]
  (tmp_path / 'tars').mkdir()
  corpora.write_tar(tmp_path / 'tars/0.tar', said)
  assert read(tmp_path / 'tars') == ({'1': 'a dog'}, {})


def test_media_that_nothing_lists_are_counted_and_named(tmp_path, capsys):
  media = {name: corpora.video(n) for n, name in enumerate(('a/1.mp4', 'a/2.mp4', 'a/3.mp4'))}
  others = {f'more/{n}.png': b'media' for n in range(5)} | {'a/note.json': b'', '.x/1.mp4': b''}
  rows = '1,a,red\n2,a,green\n'
  write(tmp_path / 'webvid', {f'videos/{name}': data for name, data in media.items()} | others)
  write(tmp_path / 'webvid', {'results.csv': HEADER + rows})
  lines = 'a/1.mp4|||red\n2.mp4|||green\n'
  write(tmp_path / 'list', media | {'videos/2.mp4': b'media', 'list.txt': lines})
  assert sources.open_source(tmp_path / 'list').count_unlisted() == (2, ['a/2.mp4', 'a/3.mp4'])
  output = tmp_path / 'out'
  folder = f'{tmp_path}/webvid'
  commands.main(['ingest', f'--input={folder}', f'--output={output}', '--num_processes=1'])
  out = capsys.readouterr().out
  assert 'listed 2 = read 2 + rejected 0' in out
  named = 'more/0.png, more/1.png, more/2.png, more/3.png, more/4.png, ...'
  assert f'6 media files are there that nothing lists: {named}\n' in out
  assert f'unlisted  6 media files: {named}\n' in inspect.inspect(folder).text()


def test_tars_are_read_at_any_depth_and_media_beside_them_named(tmp_path):
  for number, folder in enumerate(('.', 'a', 'a/b', 'val/c/d')):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    members = test_tars.example(f'{number}', f'{number}', 'jpg', 'txt')
    corpora.write_tar(tmp_path / folder / '0.tar', members)
  write(tmp_path, {'a/loose.jpg': b'media', 'a/loose.txt': 'text'})
  source = sources.open_source(tmp_path)
  assert read(tmp_path) == ({key: key for key in '0123'}, {})
  assert [shard.split for shard in source.shards()] == [None, None, None, 'validation']
  assert source.count_unlisted() == (1, ['a/loose.jpg'])
  assert sources.detect(tmp_path / 'val') == 'webdataset'
  write(tmp_path, {'val/1.jpg': b'media', 'val/1.txt': 'text'})
  assert read(tmp_path / 'val') == ({'1.jpg': 'text'}, {'c/d/0.tar': 'unknown_format'})


def test_further_rows_of_a_key_are_rejected_and_the_example_if_they_differ(tmp_path):
  members = [m for key in '12' for m in test_tars.example(key, key, 'jpg', 'txt')]
  corpora.write_tar(tmp_path / '0.tar', members)
  row = dict(key='1', status='success', url='https://e.com/1')
  rows = [row, row, dict(row, key='2'), dict(row, key='2', url='https://e.com/3')]
  pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / '0.parquet')
  source = sources.open_source(tmp_path)
  [shard] = source.shards()
  found = [(item.key, getattr(item, 'reason', 'taken')) for item in source.examples(shard)]
  assert sorted(found) == [
    ('1', 'duplicate_row'), ('1', 'taken'), ('2', 'duplicate_row'), ('2', 'duplicate_row'),
  ]  # fmt: skip
  assert source.num_listed(shard) == len(found)


def test_folders_of_a_bucket_are_walked_as_those_of_a_disk(tmp_path):
  names = ('x.mp4', 'b/y.mp4', '.hidden/z.mp4', 'b/c/w.txt')
  with emulators.s3_bucket('held') as client:
    for name in names:
      (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / name).write_bytes(b'1')
      client.pipe(f'held/a/{name}', b'1')
    walked = [sorted(files.walk(epath.Path(root))) for root in ('s3://held/a', tmp_path)]
    with pytest.raises(FileNotFoundError):
      list(files.walk(epath.Path('s3://held/none')))
  assert walked == [['b/c/w.txt', 'b/y.mp4', 'x.mp4']] * 2
