"""Captions by a function or a server: gathered, filtered on, drawn by weight, none lost unsaid."""

import base64
import collections
import http.server
import io
import json
import pathlib
import shutil
import threading

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from data_pipelines import __main__ as commands
from data_pipelines.caption import captioners, shard
from data_pipelines.caption import command as caption
from data_pipelines.corpus import buckets, jobs, reader, retries, schema
from data_pipelines.index import command as index
from data_pipelines.ingest import command as ingest
from data_pipelines.ingest import verify
from data_pipelines.stream import fields, stream
from tests import corpora

BUCKET = buckets.Bucket('video', 4, 32, 32, fps=8, batch_size=4)


@pytest.fixture(scope='module')
def ingested(tmp_path_factory):
  """Eight videos in one shard, of which 005 has no caption."""
  folder = tmp_path_factory.mktemp('ingested')
  source = corpora.write_folder(folder / 'in', 8)
  (source / '005.txt').write_text('\n')
  ingest.ingest(str(source), str(folder / 'out'), validation_fraction=0.0, num_processes=1)
  return folder / 'out'


@pytest.fixture
def directory(ingested, tmp_path):
  return pathlib.Path(shutil.copytree(ingested, tmp_path / 'out'))


def describe(clips):
  return [f'of {clip.key}, {len(clip.frames_FHWC)} frames,\n{clip.caption}' for clip in clips]


def fail(clips):
  raise RuntimeError('no memory on the card')


def by(function, source='mine', **options):
  return shard.Source(source, captioners.ByFunction(f'{__name__}:{function}'), **options)


def table(directory):
  return pa.parquet.read_table(directory / 'sidecar/caption/train-00000.parquet')


class Server(http.server.BaseHTTPRequestHandler):
  """Speaks what the tests need of OpenAI's protocol; `answers` says what to each request."""

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
    status, text = self.server.answer(self.path, self.headers, body)
    content = json.dumps(dict(choices=[dict(message=dict(role='assistant', content=text))]))
    self.send_response(status)
    self.end_headers()
    self.wfile.write(content.encode() if status == 200 else b'{}')

  def log_message(self, *_):
    pass


@pytest.fixture
def server():
  made = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
  made.url = f'http://127.0.0.1:{made.server_port}/v1'
  thread = threading.Thread(target=made.serve_forever)
  thread.start()
  yield made
  made.shutdown()
  thread.join()
  made.server_close()


def test_a_function_s_captions_lie_beside_those_that_came(directory):
  summary = caption.caption(str(directory), by('describe'), num_processes=1)
  assert (summary['num_examples'], summary['num_captions'], summary['failed']) == (8, 15, {})
  rows = table(directory).to_pylist()
  assert rows[1]['captions'] == [
    dict(span_id=None, text='caption 1', weight=1.0, source='alt'),
    dict(span_id=None, text='of 001.mp4, 4 frames, caption 1', weight=1.0, source='mine'),
  ]
  assert [caption['source'] for caption in rows[5]['captions']] == ['mine']
  assert rows[5]['caption'] == 'of 005.mp4, 4 frames,'
  assert rows[1]['caption'] == 'caption 1' and rows[1]['num_words'] == 2
  assert not verify.verify(str(directory), num_processes=1).problems


def test_weights_and_sources_are_gathered_anew_without_asking_again(directory, monkeypatch):
  caption.caption(str(directory), by('describe'), num_processes=1)
  caption.caption(str(directory), by('describe', 'other', num_frames=2), num_processes=1)
  monkeypatch.setattr(shard.CaptionShard, '__call__', None)
  done = caption.caption(str(directory), by('describe'), dict(mine=3, alt=0), num_processes=1)
  assert done['weights'] == dict(alt=0, mine=3, other=1.0)
  found = table(directory)['captions'].to_pylist()[1]
  assert [(c['text'][:23], c['weight']) for c in found] == [
    ('of 001.mp4, 4 frames, c', 3.0), ('of 001.mp4, 2 frames, c', 1.0),
  ]  # fmt: skip
  assert table(directory)['caption'].to_pylist()[1] == found[0]['text']
  again = caption.caption(str(directory), weights=dict(mine=3, alt=0))
  assert again | dict(failed={}) == done
  monkeypatch.undo()
  # Another question is asked anew.
  caption.caption(str(directory), by('describe', num_frames=3), num_processes=1)
  assert '3 frames' in table(directory)['captions'].to_pylist()[1][1]['text']


def test_a_server_sees_the_frames_and_its_refusals_are_counted(directory, server, monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', 'secret')
  asked = []

  def answer(path, headers, body):
    asked.append((path, headers['Authorization'], body))
    if len(asked) == 3:
      return 400, ''
    return (503, '') if len(asked) == 5 else (200, f' It moves\n{len(asked)}. ')

  server.answer = answer
  source = shard.Source('model', captioners.ByServer(server.url, 'see', 'What?', in_flight=1))
  summary = caption.caption(str(directory), source, num_processes=1)
  assert summary['failed'] == dict(caption_refused=1) and len(asked) == 9
  path, key, body = asked[0]
  assert (path, key, body['model']) == ('/v1/chat/completions', 'Bearer secret', 'see')
  [message] = body['messages']
  assert message['content'][0] == dict(type='text', text='What?')
  frames = [part['image_url']['url'].partition(',') for part in message['content'][1:]]
  pictures = [PIL.Image.open(io.BytesIO(base64.b64decode(data))) for _, _, data in frames]
  assert [picture.size for picture in pictures] == [(32, 32)] * 4
  assert len({picture.tobytes() for picture in pictures}) > 1  # Of different times.
  texts = [row[-1]['text'] for row in table(directory)['captions'].to_pylist()]
  assert texts[0] == 'It moves 1.' and texts[2] == 'caption 2'


@pytest.mark.parametrize(
  'answer, error, message',
  [
    ((404, ''), ValueError, 'answers 404 .*--model=see'),
    ((503, ''), retries.StorageError, 'did not answer'),
  ],
)
def test_a_server_that_is_no_use_ends_the_command(
  directory, server, monkeypatch, answer, error, message
):
  monkeypatch.setattr(retries, 'DEADLINE_SECS', 0.5)
  server.answer = lambda *_: answer
  source = shard.Source('model', captioners.ByServer(server.url, 'see'))
  with pytest.raises(error, match=message):
    caption.caption(str(directory), source, num_processes=1)


def test_answers_of_another_form_are_counted(directory, server):
  server.answer = lambda path, headers, body: (200, None)
  source = shard.Source('model', captioners.ByServer(server.url, 'see'))
  summary = caption.caption(str(directory), source, num_processes=1)
  assert summary['failed'] == dict(caption_answer=8) and summary['num_captions'] == 7


def test_a_function_that_always_fails_is_a_bug(directory):
  with pytest.raises(ValueError, match='bug of this program or of a hook'):
    caption.caption(str(directory), by('fail'), num_processes=1)


@pytest.mark.parametrize(
  'given, message',
  [
    ('--source=a', '--source=a needs --server=URL'),
    ('--by=tests.none:f --source=a', 'tests.none:f cannot be loaded'),
    ('--by=json:loads', '--source=NAME is missing'),
    ('--server=localhost --model=m --source=a', 'should be a URL'),
    ('--server=http://127.0.0.1:1/v1 --source=a', 'needs --model=NAME'),
    ('--server=http://127.0.0.1:1/v1 --by=json:loads --source=a', 'give one of them'),
    ('--by=json:loads --source=alt', "not 'alt'"),
    ('--by=json:loads --source=../a', '--source=../a should be letters'),
    ('--weight=alt', '--weight=alt should be SOURCE=NUMBER'),
    ('--weight=none=1', 'the sources are alt'),
    ('--weight=alt=-1', 'weights 0 or more'),
    ('--weight=alt=0', 'no caption would ever be drawn'),
  ],
)
def test_mistakes_are_told_in_one_line(directory, given, message):
  with corpora.ends_with_2(message):
    commands.main(['caption', f'--corpus={directory}', '--num_processes=1', *given.split()])


def open_stream(directory, **options):
  ids = lambda texts: np.array([[len(text), ord(text[0]) if text else 0] for text in texts])  # noqa: E731
  return stream.TrainStream(
    str(directory), [BUCKET], fields.released(ids, 16), seed=0, sandbox=False, **options
  )


def test_draws_follow_the_weights_and_the_step(directory):
  plain = open_stream(directory)
  with pytest.raises(ValueError, match='data.captions: .*out has none. Make them: python'):
    open_stream(directory, captions=True)
  caption.caption(str(directory), by('describe'), dict(mine=3), num_processes=1)
  drawn = open_stream(directory, captions=True)
  assert drawn.fingerprint != plain.fingerprint == open_stream(directory).fingerprint
  counts: collections.Counter = collections.Counter()
  for step in range(60):
    batch, other = drawn.batch_at(step), plain.batch_at(step)
    np.testing.assert_array_equal(batch['video'], other['video'])
    for length, first in batch['token_ids'].tolist():
      counts[chr(first) if length else ''] += 1
  assert counts.keys() == {'c', 'o'}  # Never the caption that is empty.
  # 30 of 240 draws are of the example that has the function's alone.
  assert 0.7 < (counts['o'] - 30) / 210 < 0.8
  hosts = [open_stream(directory, captions=True, host_index=i, host_count=2) for i in range(2)]
  for step in (3, 50):
    halves = [host.batch_at(step)['token_ids'] for host in hosts]
    whole = drawn.batch_at(step)['token_ids']
    np.testing.assert_array_equal(whole[0::2], halves[0])
    np.testing.assert_array_equal(whole[1::2], halves[1])
  caption.caption(str(directory), weights=dict(mine=2))
  assert open_stream(directory, captions=True).fingerprint != drawn.fingerprint


def test_conditions_see_captions_of_which_there_is_one_without_a_model(directory, tmp_path):
  commands.main(['caption', f'--corpus={directory}', '--num_processes=1'])
  made = index.index(
    dict(a=str(directory)), str(tmp_path / 'index'), where=["caption ilike '%ION 3'"]
  )
  assert made['num_rows'] == 1
  made = index.index(dict(a=str(directory)), str(tmp_path / 'index'), where=['num_words = 0'])
  assert made['num_rows'] == 1


def test_captions_of_an_older_corpus_are_refused(directory):
  caption.caption(str(directory))
  path = directory / 'sidecar/caption/manifest.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(corpus='other')))
  with pytest.raises(ValueError, match='of another version of the corpus: python -m'):
    open_stream(directory, captions=True)


def test_what_is_half_asked_is_left_out_and_goes_on(directory, caplog):
  caption.caption(str(directory), by('describe'), num_processes=1)
  [part] = (directory / '_captioned/mine').glob(f'*/{jobs.MARKER}')
  part.unlink()
  summary = caption.caption(str(directory))
  assert summary['weights'] == dict(alt=1.0) and "captions of 'mine' are not whole" in caplog.text
  with pytest.raises(ValueError, match='the sources are alt'):
    caption.caption(str(directory), weights=dict(mine=1))
  assert reader.read_manifest(directory)['splits']['train']['num_examples'] == 8


def curated(directory, shots):
  """Writes what curate would of videos that have these shots: [(start, end, keep)] of each."""
  base = pa.parquet.read_table(directory / 'sidecar/train-00000.parquet')
  rows = [
    dict(
      key=key,
      keep=any(keep for *_, keep in shots),
      span_start=shots[0][0],
      span_end=shots[0][1],
      spans=[
        dict(span_id=i, span_start=start, span_end=end, keep=keep)
        for i, (start, end, keep) in enumerate(shots)
      ],
    )
    for key in base['key'].to_pylist()
  ]
  path = directory / 'sidecar/curate/train-00000.parquet'
  path.parent.mkdir(exist_ok=True)
  pa.parquet.write_table(pa.Table.from_pylist(rows, schema.CURATE), path)
  corpora.finish_stage(directory, shots=str(shots))


def count(clips):
  asked.extend(clips)
  return [f'{len(asked)} {clip.frames_FHWC.mean():.4f}' for clip in clips]


asked: list = []


def test_each_shot_that_is_kept_is_asked_once_and_drawn_with_its_own(directory, tmp_path):
  asked.clear()
  curated(directory, [(0.0, 0.25, True), (0.3, 0.55, False), (0.6, 0.85, False)])
  caption.caption(str(directory), by('count'), dict(alt=0), num_processes=1)
  assert len(asked) == 8
  curated(directory, [(0.0, 0.25, False), (0.3, 0.55, True), (0.6, 0.85, True)])
  caption.caption(str(directory), by('count'), dict(alt=0), num_processes=1)
  assert len(asked) == 24  # The first is not asked again, nor forgotten.
  found = table(directory)['captions'].to_pylist()[1]
  assert [each['span_id'] for each in found] == [0, 1, 2]
  assert len({each['text'].split()[1] for each in found}) == 3  # Of frames of its own.
  index.index(dict(a=str(directory)), str(tmp_path / 'index'))
  short = buckets.Bucket('video', 2, 32, 32, fps=8, batch_size=4)
  texts = []
  drawn = stream.TrainStream(
    dict(a=str(directory)),
    [short],
    fields.released(lambda given: texts.append(given) or np.zeros((len(given), 1)), 16),
    seed=0,
    sandbox=False,
    index=str(tmp_path / 'index'),
    captions=True,
  )
  texts.clear()
  of_text = {
    each['text']: each['span_id']
    for row in table(directory)['captions'].to_pylist()
    for each in row
  }
  for step in range(4):
    drawn.batch_at(step)
    starts = [example['times'][0] for example in drawn.examples_at(step)]
    assert [of_text[text] for text in texts[-1]] == [1 if start < 0.58 else 2 for start in starts]


def test_an_answer_about_a_shot_that_is_one_no_more_is_left_out(directory):
  asked.clear()
  curated(directory, [(0.0, 0.25, True), (0.3, 0.85, True)])
  caption.caption(str(directory), by('count'), dict(alt=0), num_processes=1)
  assert open_stream(directory, captions=True)
  curated(directory, [(0.0, 0.55, True), (0.6, 0.85, False)])  # By another detector of cuts.
  with pytest.raises(ValueError, match='shots of .* end elsewhere .* caption --corpus='):
    open_stream(directory, captions=True)
  caption.caption(str(directory), by('count'), dict(alt=0), num_processes=1)
  assert len(asked) == 24
  newest = [int(each['text'].split()[0]) for [each] in table(directory)['captions'].to_pylist()]
  assert newest == [24] * 8
