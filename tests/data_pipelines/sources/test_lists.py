"""Every row of a list, every file of a folder comes out: with its caption, or rejected by name."""

import csv
import dataclasses
import io
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet
import pytest
from etils import epath

from data_pipelines import __main__ as commands
from data_pipelines import sources
from data_pipelines.ingest import inspect
from data_pipelines.sources import file_names, lists, raw, text
from tests import corpora
from tests.corpora import read_all as read
from tests.corpora import write_files as write

HEADER = 'videoid,page_dir,name\n'


def webvid(folder, data):
  for key in '123':
    write(folder, {f'videos/p/{key}.mp4': b'media'})
  write(folder, {'results_train.csv': data})
  return read(folder)


@pytest.mark.parametrize(
  'data',
  [
    (HEADER + '1,p,é\n2,p,"a, b"\n').encode('utf-8-sig'),
    (HEADER + '1,p,é\n2,p,"a, b"\n').encode('utf-16'),
    b'\xfe\xff' + (HEADER + '1,p,é\n2,p,"a, b"\n').encode('utf-16-be'),
    (HEADER + '1,p,é\n\n\n2,p,"a, b"').replace('\n', '\r').encode(),
    (HEADER + '1,p,é\n2,p,"a, b"\n\n').replace('\n', '\r\n').encode(),
    'VideoID, Page_Dir ,Name\n1, p, é\n2, p, "a, b"\n',
    'name;videoid;page_dir\né;1;p\n"a, b";2;p\n',
    'name\tvideoid\tpage_dir\né\t1\tp\na, b\t2\tp\n',
  ],
  ids=['mark', 'utf-16', 'utf-16-be', 'cr', 'crlf', 'spaces', 'semicolons', 'tabs'],
)
def test_a_csv_is_read_however_it_was_saved(tmp_path, data):
  assert webvid(tmp_path, data) == ({'p/1': 'é', 'p/2': 'a, b'}, {})


@pytest.mark.parametrize(
  ('rows', 'lines'),
  [
    ('1,p,"red\n2,p,green\n3,p,blue\n', [2]),
    ('1,p,"red\n2,p,green\n3,p,"blue"\n', [2]),
    ('1,p,red, then green\n2,p,green\n3,p,blue\n', [2]),
    ('2,p,green\n3,p,blue\n1\n', [4]),
    ('2,p,green\n3,p,blue\n1,p,"red', [4]),
    ('2,p,green\n"1"x,p,red\n3,p,blue\n', [3]),
    ('1,p,"one "two"\nthree"\n2,p,green\n3,p,blue\n', [2, 3]),
  ],
)
def test_a_faulty_row_of_a_csv_costs_itself_alone(tmp_path, rows, lines):
  taken, rejected = webvid(tmp_path, HEADER + rows)
  assert taken == {'p/2': 'green', 'p/3': 'blue'}
  assert rejected == {f'results_train.csv:{line}': 'bad_row' for line in lines}


def test_captions_keep_the_line_separators_that_unicode_has_more(tmp_path):
  caption = 'a\u2028b\u2029c\u0085d\x0ce\x0bf\x1cg'
  expected = {'p/1': caption, 'p/2': 'two\nlines'}
  assert webvid(tmp_path / 'csv', f'{HEADER}1,p,{caption}\n2,p,"two\nlines"\n')[0] == expected
  write(tmp_path / 'list', {'a.mp4': b'media', 'list.txt': f'a.mp4|||{caption}\n'})
  assert read(tmp_path / 'list') == ({'a.mp4': caption}, {})
  write(tmp_path / 'pair', {'a.mp4': b'media', 'videos.txt': 'a.mp4', 'prompts.txt': caption})
  assert read(tmp_path / 'pair') == ({'a.mp4': caption}, {})
  row = json.dumps(dict(file_name='a.mp4', text=caption), ensure_ascii=False)
  write(tmp_path / 'jsonl', {'a.mp4': b'media', 'metadata.jsonl': row})
  assert read(tmp_path / 'jsonl') == ({'a.mp4': caption}, {})


def test_captions_that_are_no_text_are_rejected_by_their_example(tmp_path):
  data = HEADER.encode() + b'1,p,caf\xe9\n2,p,fine\n'
  assert webvid(tmp_path / 'csv', data) == ({'p/2': 'fine'}, {'p/1': 'undecodable_caption'})
  files = {f'{name}.mp4': b'media' for name in 'abcde'}
  texts = {'a.txt': b'caf\xe9', 'b.txt': 'é'.encode('utf-16'), 'c.txt': 'é'.encode('utf-16-le')}
  write(tmp_path / 'dir', files | texts | {'d.txt': b'\xef\xbb\xbfe', 'e.txt': b'x' * 300_000})
  taken, rejected = read(tmp_path / 'dir')
  assert taken == {'b.mp4': 'é', 'd.mp4': 'e'}
  reasons = ['undecodable_caption', 'undecodable_caption', 'long_caption']
  assert rejected == dict(zip(('a.mp4', 'c.mp4', 'e.mp4'), reasons, strict=True))


def test_a_csv_whose_header_is_no_text_is_refused_by_name(tmp_path):
  for name, data in (('a', b'videoid,page_dir,n\xe9e\n'), ('b', HEADER.encode('utf-16-le'))):
    write(tmp_path / name, {'results.csv': data})
    with pytest.raises(ValueError, match=r'results.csv .* Save it as UTF-8|save it as UTF-8'):
      sources.open_source(tmp_path / name)


@pytest.mark.parametrize('name', ['../../etc/passwd', '/etc/passwd', 'C:\\x.mp4', 's3://b/x.mp4'])
def test_lists_do_not_lead_out_of_their_folder(tmp_path, name):
  write(tmp_path / 'list', {'a.mp4': b'media', 'list.txt': f'a.mp4|||a\n{name}|||b\n'})
  assert read(tmp_path / 'list') == ({'a.mp4': 'a'}, {name: 'unsafe_name'})
  write(tmp_path / 'csv', {'a.mp4': b'm', 'metadata.csv': f'file_name,text\na.mp4,a\n{name},b\n'})
  assert read(tmp_path / 'csv') == ({'a.mp4': 'a'}, {'metadata.csv:3': 'unsafe_name'})


ROWS = [dict(file_name='a.mp4', text='red'), dict(file_name='sub/b.gif', text='green')]


def metadata(file, rows):
  if file.suffix == '.parquet':
    pa.parquet.write_table(pa.Table.from_pylist(rows), file)
  elif file.suffix == '.jsonl':
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  else:
    with file.open('w', newline='') as lines:
      csv.writer(lines).writerows([list(rows[0]), *(row.values() for row in rows)])


@pytest.mark.parametrize('name', ['metadata.csv', 'metadata.jsonl', 'metadata.parquet'])
def test_metadata_files_of_any_folder_name_their_files_relative_to_it(tmp_path, name):
  for split in ('train', 'test'):
    write(tmp_path / split, {'a.mp4': b'media', 'sub/b.gif': b'media', 'c.png': b'media'})
    metadata(tmp_path / split / name, [*ROWS, dict(file_name='gone.mp4', text='blue')])
  taken, rejected = read(tmp_path)
  assert taken == {
    f'{split}/{row["file_name"]}': row['text'] for split in ('train', 'test') for row in ROWS
  }
  assert rejected == {
    'train/c.png': 'no_caption', 'test/c.png': 'no_caption',
    'train/gone.mp4': 'missing_file', 'test/gone.mp4': 'missing_file',
  }  # fmt: skip
  shards = sources.open_source(tmp_path).shards()
  assert sorted(shard.split for shard in shards) == ['train', 'validation']


def test_rows_of_jsonl_that_say_nothing_usable_are_rejected_by_their_line(tmp_path):
  rows = ['{"file_name": "a.mp4", "text": "red"}', '{"file_name": "b.mp4"', '[1]', '']
  rows += ['{"file_name": "b.mp4", "text": 7}', '{"file_name": "b.mp4", "text": null}']
  rows += ['{"file_name": "a.mp4", "text": "twice"}', '[' * 100_000, '{"x": ' * 40 + '1' + '}' * 40]
  write(tmp_path, {'a.mp4': b'media', 'b.mp4': b'media', 'metadata.jsonl': '\n'.join(rows)})
  taken, rejected = read(tmp_path)
  bad = {f'metadata.jsonl:{line}': 'bad_row' for line in (2, 3, 5, 8, 9)}
  others = {'metadata.jsonl:6': 'no_caption', 'metadata.jsonl:7': 'duplicate_row'}
  assert taken == {'a.mp4': 'red'} and rejected == bad | others | {'b.mp4': 'no_caption'}


def test_a_bare_name_is_of_the_one_file_that_has_it(tmp_path):
  write(tmp_path, dict.fromkeys(('x/a.mp4', 'x/clip.mp4', 'y/clip.mp4'), b'media'))
  rows = 'file_name,caption\n./x\\clip.mp4,red\nclip.mp4,b\na.mp4,c\n'
  write(tmp_path, {'metadata.csv': rows})
  taken, rejected = read(tmp_path)
  assert taken == {'x/clip.mp4': 'red', 'x/a.mp4': 'c'}
  assert rejected == {'clip.mp4': 'missing_file', 'y/clip.mp4': 'no_caption'}


def test_a_folder_names_all_that_it_does_not_read(tmp_path):
  media = {f'{i}{suffix}': b'media' for i, suffix in enumerate(file_names.MEDIA_BY_SUFFIX)}
  texts = {f'{i}.TXT': f'caption {i}' for i in range(len(media))}
  write(tmp_path, media | texts)
  litter = ('._0.mp4', '__MACOSX/1.mp4', 'a/.DS_Store', '.cache/x.mp4', 'a/._0.txt')
  about = ('0.json', 'README.md', 'LICENSE', '.gitattributes')
  others = ('left.txt', 'song.mp3', 'a/b.psd', 'none.mp4')
  write(tmp_path, dict.fromkeys((*litter, *about, *others), b'x'))
  taken, rejected = read(tmp_path)
  assert taken == {name: f'caption {i}' for i, name in enumerate(media)}
  assert rejected == {
    'left.txt': 'missing_file', 'song.mp3': 'unknown_format', 'a/b.psd': 'unknown_format',
    'none.mp4': 'no_caption',
  }  # fmt: skip


def test_a_caption_whose_name_begins_as_a_documents_is_no_document(tmp_path):
  names = ('license_plate_1', 'notice-board', 'readme2')
  write(tmp_path, {f'{name}.txt': name for name in names} | {'LICENSE.txt': b'x', 'notice': b'x'})
  write(tmp_path, {'notice-board.mp4': b'media'})
  expected = {'license_plate_1.txt': 'missing_file', 'readme2.txt': 'missing_file'}
  assert read(tmp_path) == ({'notice-board.mp4': 'notice-board'}, expected)


def test_rows_of_jsonl_need_not_all_have_the_columns(tmp_path):
  rows = '{"file_name": "a.mp4", "size": 3}\n{"text": "red", "file_name": "b.mp4"}\n'
  write(tmp_path, {'a.mp4': b'media', 'b.mp4': b'media', 'metadata.jsonl': rows})
  expected = {'metadata.jsonl:1': 'no_caption', 'a.mp4': 'no_caption'}
  assert read(tmp_path) == ({'b.mp4': 'red'}, expected)


def test_suffixes_of_lists_may_be_in_upper_case(tmp_path):
  write(tmp_path / 'webvid', {'A.CSV': HEADER + '4,p,four\n', 'videos/p/4.mp4': b'media'})
  assert webvid(tmp_path / 'webvid', HEADER + '1,p,one\n')[0] == {'p/4': 'four', 'p/1': 'one'}
  write(tmp_path / 'vgen', {'a.mp4': b'media', 'LIST.TXT': 'a.mp4|||red\n'})
  assert read(tmp_path / 'vgen') == ({'a.mp4': 'red'}, {})


@pytest.mark.parametrize('suffix', ['txt', 'TXT', 'csv', 'tar', 'parquet', 'jsonl', 'mp4'])
def test_folders_may_be_called_as_files_are(tmp_path, suffix):
  write(tmp_path, {f'a.{suffix}/1.jpg': b'media', f'a.{suffix}/1.txt': 'red'})
  assert read(tmp_path) == ({f'a.{suffix}/1.jpg': 'red'}, {})


def test_metadata_in_a_damaged_parquet_is_named(tmp_path):
  write(tmp_path, {'a.jpg': b'media', 'metadata.parquet': b'PAR1'})
  with pytest.raises(ValueError, match='metadata.parquet cannot be read: '):
    read(tmp_path)


def test_a_webvid_csv_without_its_columns_is_named_beside_others(tmp_path):
  write(tmp_path, {'results_val.csv': 'video_id,page_dir,name\n2,p,two\n'})
  with pytest.raises(ValueError, match="results_val.* needs 'videoid'; rename 'video_id'"):
    webvid(tmp_path, HEADER + '1,p,one\n')


@pytest.mark.parametrize(
  ('captions', 'names', 'expected'),
  [
    ('red\nblue\n', 'a.mp4 \n\tb.mp4\n', {'a.mp4': 'red', 'b.mp4': 'blue'}),
    ('red\n\n', 'a.mp4\nb.mp4\n', {'a.mp4': 'red', 'b.mp4': ''}),
    ('red\nblue\n\n\n', 'a.mp4\nb.mp4\n \n\n\n', {'a.mp4': 'red', 'b.mp4': 'blue'}),
    ('\nred\nblue', '\nb.mp4\na.mp4', {'b.mp4': 'red', 'a.mp4': 'blue'}),
  ],
)
def test_spaces_and_empty_lines_part_no_pair(tmp_path, captions, names, expected):
  write(tmp_path, {'prompts.txt': captions, 'videos.txt': names})
  write(tmp_path, dict.fromkeys(('a.mp4', 'b.mp4'), b'media'))
  taken, rejected = read(tmp_path)
  assert taken == expected and set(rejected) <= {'videos.txt:1'}


@pytest.mark.parametrize('names', [('prompts.txt', 'videos.txt'), ('caption.txt', 'image.txt')])
def test_captions_and_files_are_paired_by_their_lines(tmp_path, names):
  write(tmp_path, {f'videos/{key}.mp4': b'media' for key in 'abc'})
  captions = 'red\n\nblue\nfour\n\n'
  files = 'videos/a.mp4\r\nvideos/b.mp4\r\nvideos/x.mp4\r\n../y.mp4'
  write(tmp_path, dict(zip(names, (captions, files), strict=True)))
  assert sources.detect(tmp_path) == 'paired'
  assert read(tmp_path) == (
    {'videos/a.mp4': 'red', 'videos/b.mp4': ''},
    {
      'videos/x.mp4': 'missing_file',
      f'{names[1]}:4': 'unsafe_name',
      'videos/c.mp4': 'no_caption',
    },
  )
  write(tmp_path, {names[0]: 'red\nblue\n'})
  with pytest.raises(ValueError, match='has 2 lines and .* 4: each caption should stand'):
    read(tmp_path)


def test_rows_that_csv_writes_come_back_whatever_they_hold(tmp_path):
  rng = random.Random(0)
  letters = 'ab ,;"\'\n\r\t|é\u2028\u0085\x0c日🙂'
  captions = [''.join(rng.choices(letters, k=rng.randrange(12))) for _ in range(300)]
  captions = ['x' + caption for caption in captions]  # Spaces before a field are dropped.
  file = io.StringIO(newline='')
  rows = [(f'{i:04d}', 'p', caption) for i, caption in enumerate(captions)]
  csv.writer(file).writerows([('videoid', 'page_dir', 'name'), *rows])
  write(tmp_path, {'results.csv': file.getvalue()})
  source = sources.open_source(tmp_path)
  shards = source.shards()
  assert len(shards) > 1
  listed = [item for shard in shards for item in source.listed(shard.items[0])]
  assert [item.caption for item in listed] == captions


@pytest.mark.parametrize('seed', range(20))
def test_no_row_of_a_random_list_is_lost(tmp_path, seed):
  rng = random.Random(seed)
  body = ''.join(rng.choices('1p,,,"\n\n\r|\u2028', k=3000))
  for name, data in (('results.csv', HEADER + body), ('list.txt', 'a.mp4|||a\n' + body)):
    folder = tmp_path / name.partition('.')[0]
    write(folder, {name: data})
    source = sources.open_source(folder)
    shards = source.shards()
    found = [[*source.examples(shard)] for shard in shards]
    assert [len(examples) for examples in found] == [source.num_listed(shard) for shard in shards]
  lines = [line for line in text.Lines(sources.open_source(folder).path / 'list.txt')]
  assert ''.join(lines) == data
  assert sum(map(len, found)) == sum(bool(line.strip()) for line in lines)


def test_an_example_that_is_listed_twice_is_taken_once(tmp_path, capsys):
  folder = corpora.write_folder(tmp_path / 'in', 3, captions=None)
  lines = '000.mp4|||a\n001.mp4|||b\n000.mp4|||c\n002.mp4|||d\n'
  (folder / 'list.txt').write_text(lines)
  output = f'{tmp_path}/out'
  commands.main(['ingest', f'--input={folder}', f'--output={output}', '--num_processes=1'])
  assert 'listed 4 = read 3 + rejected 1; most often: duplicate_key 1' in capsys.readouterr().out
  commands.main(['verify', f'--corpus={output}', '--num_processes=1'])


def test_links_without_media_are_all_rejected(tmp_path):
  table = pa.table({'URL': [f'https://e.com/{i}' for i in range(9)], 'TEXT': ['a frog'] * 9})
  pa.parquet.write_table(table, tmp_path / 'part-00000.parquet')
  taken, rejected = read(tmp_path)
  assert not taken and rejected == {f'part-00000.parquet:{i}': 'link_only' for i in range(9)}


def test_names_that_are_not_utf8_are_rejected_and_the_command_goes_on(tmp_path, capsys):
  folder = corpora.write_folder(tmp_path / 'in', 2)
  for name in (b'caf\xe9.mp4', b'\x1b[31m.mp4'):
    with open(os.fsencode(folder) + b'/' + name, 'wb') as file:
      file.write(b'media')
    with open(os.fsencode(folder) + b'/' + name[:-4] + b'.txt', 'wb') as file:
      file.write(b'a caption')
  write(folder, {'note.psd': b'', 'gone.txt': 'a caption'})
  inspect_text = inspect.inspect(str(folder)).text()
  assert 'unusable  unknown_format 1, missing_file 1' in inspect_text or (
    'unusable  missing_file 1, unknown_format 1' in inspect_text
  )
  commands.main(['ingest', f'--input={folder}', f'--output={tmp_path}/out', '--num_processes=1'])
  out = capsys.readouterr().out
  assert 'listed 6 = read 2 + rejected 4; most often: bad_name 2' in out
  lines = (tmp_path / 'out/rejected/00000.jsonl').read_text().splitlines()
  keys = {bad['key']: bad['reason'] for bad in map(json.loads, lines)}
  assert keys == {
    'caf\\xe9.mp4': 'bad_name', '\\x1b[31m.mp4': 'bad_name', 'note.psd': 'unknown_format',
    'gone.txt': 'missing_file',
  }  # fmt: skip


@pytest.mark.parametrize('name', ['../out/b.mp4', 'OUT/b.mp4', 'link.mp4'])
@pytest.mark.parametrize('layout', ['list.txt', 'metadata.csv', 'sub/metadata.jsonl', 'videos.txt'])
def test_what_leads_out_of_the_folder_is_taken_only_if_told_to(tmp_path, layout, name):
  outside, inside = tmp_path / 'out', tmp_path / 'in'
  for folder in (outside, inside, inside / 'sub'):
    folder.mkdir()
  for file in (outside / 'b.mp4', inside / 'a.mp4', inside / 'sub/c.mp4'):
    file.write_bytes(b'x')
    file.with_suffix('.txt').write_text('a caption')
  listing = inside / layout
  (listing.parent / 'link.mp4').symlink_to(outside / 'b.mp4')
  listed = name.replace('OUT', str(outside))
  if layout.startswith('sub/') and name.startswith('..'):
    listed = f'../{name}'
  if layout == 'list.txt':
    listing.write_text(f'{listed}|||b\n')
  elif layout == 'videos.txt':
    listing.write_text(f'{listed}\n')
    (inside / 'prompts.txt').write_text('b\n')
  elif layout == 'metadata.csv':
    listing.write_text(f'file_name,text\n{listed},b\n')
  else:
    listing.write_text(json.dumps({'file_name': listed, 'text': 'b'}) + '\n')
  for follow in (False, True):
    source = sources.open_source(inside, follow_outside=follow)
    found = [example for shard in source.shards() for example in source.examples(shard)]
    taken = {example.caption for example in found if isinstance(example, raw.RawExample)}
    reasons = {example.reason for example in found if isinstance(example, raw.Rejected)}
    assert ('b' in taken, 'unsafe_name' in reasons) == (follow, not follow)


def test_a_caption_that_is_a_link_to_elsewhere_is_not_read(tmp_path):
  (tmp_path / 'secret').write_text('a password')
  folder = tmp_path / 'in'
  folder.mkdir()
  for name in ('a', 'b'):
    (folder / f'{name}.mp4').write_bytes(b'x')
  (folder / 'a.txt').symlink_to(tmp_path / 'secret')
  (folder / 'b.txt').write_text('b')
  assert read(folder) == ({'b.mp4': 'b'}, {'a.mp4': 'unsafe_name'})


@pytest.mark.parametrize(
  ('num', 'most', 'size'),
  [
    (10, lists.MAX_SHARD_EXAMPLES, 64), (1600, lists.MAX_SHARD_EXAMPLES, 100),
    (8192, lists.MAX_SHARD_EXAMPLES, 512), (10_700_000, lists.MAX_SHARD_EXAMPLES, 512),
    (100_000_000, lists.MAX_SHARD_EXAMPLES, 2000), (10_700_000, 4096, 4096),
  ],
)  # fmt: skip
def test_shards_of_a_list_are_minutes_of_work_and_not_too_many(num, most, size):
  assert lists.shard_size(num, most) == size


def test_large_files_make_smaller_shards(tmp_path, monkeypatch):
  """Each a run of whole files in their order; one that is too large is alone."""
  for number, size in enumerate([40, 40, 40, 200, 10, 10]):
    (tmp_path / f'{number}.mp4').write_bytes(bytes(size))
    (tmp_path / f'{number}.txt').write_text('caption')
  source = sources.open_source(tmp_path)
  [shard] = source.shards()
  assert list(source.bounded(shard)) == [shard]
  monkeypatch.setattr(lists, 'MAX_SHARD_BYTES', 100)
  parts = list(source.bounded(shard))
  names = [[item.name[0] for item in part.items] for part in parts]
  assert names == [['0', '1'], ['2'], ['3'], ['4', '5']]


def test_a_file_that_comes_just_after_it_was_missed_is_late(tmp_path, monkeypatch):
  root = epath.Path(tmp_path)
  item = lists.Listed(None, 'a.mp4', root, 'a.mp4', 'a caption')
  read_file = lists._read_file

  def read_and_come(*arguments):
    found = read_file(*arguments)
    (tmp_path / 'a.mp4').write_bytes(b'media')
    return found

  monkeypatch.setattr(lists, '_read_file', read_and_come)
  [missed] = lists.read_listed([item], follow_outside=False)
  assert missed.reason == 'missing_file' and missed.stamp != item.stamp()
  [there] = lists.read_listed([item], follow_outside=False)
  assert there.data == b'media'
  [refused] = lists.read_listed([dataclasses.replace(item, name='a.xyz')], follow_outside=False)
  assert refused.stamp == dataclasses.replace(item, name='a.xyz').stamp()
