"""Storage that fails for a while changes nothing; storage that stays away is no bad example."""

import errno
import io
import types

import aiohttp
import botocore.exceptions
import gcsfs.retry
import google.auth.exceptions
import numpy as np
import PIL
import pytest
import requests
from google.api_core import exceptions as google_exceptions

from data_pipelines.corpus import reader, retries
from data_pipelines.stream import decoder, fields, sandboxed_decoder
from tests import corpora
from tests.data_pipelines.corpus import test_remote_records


def response(status):
  found = requests.Response()
  found.status_code = status
  return found


def client_error(status):
  told = {'Error': {'Code': 'x'}, 'ResponseMetadata': {'HTTPStatusCode': status}}
  return botocore.exceptions.ClientError(told, 'GetObject')


TRANSIENT = (
  OSError('503 Service Unavailable'),
  OSError(errno.EIO, 'Input/output error'),
  TimeoutError(),
  ConnectionResetError(),
  gcsfs.retry.HttpError({'code': 503, 'message': 'x'}),
  gcsfs.retry.HttpError({'code': 429, 'message': 'x'}),
  requests.HTTPError(response=response(502)),
  requests.exceptions.ProxyError(),
  aiohttp.ServerDisconnectedError(),
  aiohttp.ClientPayloadError(),
  client_error(500),
  botocore.exceptions.ReadTimeoutError(endpoint_url='x'),
  google_exceptions.ServiceUnavailable('x'),
)
FINAL = (
  FileNotFoundError('gone'),
  PermissionError('x'),
  IsADirectoryError('x'),
  OSError(errno.ENOSPC, 'No space left on device'),
  OSError('Forbidden: gs://held/x'),
  io.UnsupportedOperation('not writable'),
  gcsfs.retry.HttpError({'code': 403, 'message': 'x'}),
  requests.HTTPError(response=response(404)),
  client_error(412),
  botocore.exceptions.NoCredentialsError(),
  google.auth.exceptions.DefaultCredentialsError('x'),
  google_exceptions.Forbidden('x'),
  ValueError('x'),
  KeyError('x'),
  retries.StorageError('tried long enough'),
  PIL.UnidentifiedImageError('no picture'),
)


@pytest.mark.parametrize('error', TRANSIENT + FINAL, ids=repr)
def test_which_errors_may_pass(error):
  assert retries.is_transient(error) == (error in TRANSIENT)


@pytest.fixture
def unsteady(demo_corpus, monkeypatch):
  """gs://held with the demo corpus; (its folders, errors that the next reads raise)."""
  errors = []
  for bucket in corpora.bucket():
    for file in demo_corpus.rglob('*'):
      if file.is_file():
        bucket.pipe_file(f'/held/{file.relative_to(demo_corpus)}', file.read_bytes())

    def cat_file(self, path, read=corpora.Bucket.cat_file, **options):
      if errors:
        raise errors.pop()
      return read(self, path, **options)

    monkeypatch.setattr(corpora.Bucket, 'cat_file', cat_file)
    yield {name: f'gs://held/{name}' for name in ('videos', 'images')}, errors


def test_a_503_that_goes_away_changes_no_batch(unsteady):
  folders, errors = unsteady
  steady, shaken = (
    test_remote_records.open_stream(folders, sandbox=False, max_bad_fraction=0.0) for _ in 'ab'
  )
  for step in range(3):
    expected = steady.batch_at(step)
    errors += [OSError('503'), ConnectionResetError(), aiohttp.ServerDisconnectedError()]
    found = shaken.batch_at(step)
    assert not errors
    for name, values in expected.items():
      np.testing.assert_array_equal(found[name], values)
  assert shaken.num_bad == 0 and shaken.replaced_at(0) == []


def test_a_bucket_that_stays_away_is_no_bad_example(unsteady, monkeypatch):
  folders, errors = unsteady
  monkeypatch.setattr(retries, 'DEADLINE_SECS', 0.3)
  stream = test_remote_records.open_stream(folders, sandbox=False)
  errors += [OSError('503')] * 10_000
  with pytest.raises(retries.StorageError, match=r'did not answer within 0.3 s.*503'):
    stream.batch_at(0)
  assert stream.num_bad == 0


def test_a_disk_that_is_gone_is_no_bad_example_of_a_decoders_child(tmp_path, monkeypatch):
  monkeypatch.setenv('STORAGE_DEADLINE_SECS', '0.2')
  video = test_remote_records.VIDEO
  sandboxed = sandboxed_decoder.make_decoder([fields.Video()], sandbox=True)
  try:
    batch = sandboxed.empty(video, 1)
    request = decoder.Request(str(tmp_path / 'unmounted/shard'), 0, (0.0, 1.0, 2.0, 3.0))
    with pytest.raises(retries.StorageError, match='the folder of the corpus is gone'):
      list(sandboxed.fill(batch, {0: request}))
    (tmp_path / 'unmounted').mkdir()  # It is back, but this shard is not.
    [(_, found)] = sandboxed.fill(batch, {0: request})
    assert found.error.startswith('record')
  finally:
    sandboxed.close()


def test_what_was_replaced_is_told_and_replaced_again(demo_corpus, monkeypatch):
  """Also when it is sound by then: a decoder that hung once need not hang again."""
  folders = {name: str(demo_corpus / name) for name in ('videos', 'images')}
  first = test_remote_records.open_stream(folders, sandbox=False, max_bad_fraction=0.5)
  whole = [first.batch_at(step) for step in range(4)]
  bad = first.examples_at(2)[1]['key']
  read = reader.Records.read

  def hung(self, shard, record):
    found = read(self, shard, record)
    if found['key'] == bad:
      raise reader.DecodeError('timeout', 'no result in 60 s.')
    return found

  with monkeypatch.context() as patch:
    patch.setattr(reader.Records, 'read', hung)
    shaken = [first.batch_at(step) for step in range(4)]
  told = [found for step in range(4) for found in first.replaced_at(step)]
  assert {(found['step'], found['row'], found['key']) for found in told} >= {(2, 1, bad)}
  assert all(found['reason'].startswith('timeout') for found in told)
  assert first.replaced_at(2) == []

  resumed = test_remote_records.open_stream(folders, sandbox=False, max_bad_fraction=0.5)
  resumed.replace_again(told)
  other = test_remote_records.open_stream(folders, sandbox=False)
  other.replace_again([found | dict(stream='of another corpus') for found in told])
  for step in range(4):
    for name, values in shaken[step].items():
      np.testing.assert_array_equal(resumed.batch_at(step)[name], values)
      np.testing.assert_array_equal(other.batch_at(step)[name], whole[step][name])
  assert any((a[n] != b[n]).any() for a, b in zip(whole, shaken, strict=True) for n in a)


def test_a_name_that_no_server_knows_is_a_lost_connection():
  """It is an OSError with a number of its own, below 0."""
  key = types.SimpleNamespace(host='storage', port=443, ssl=True)
  unknown = OSError(-2, 'Name or service not known')
  assert retries.is_transient(aiohttp.ClientConnectorDNSError(key, unknown))
  assert not retries.is_transient(FileNotFoundError(2, 'No such file'))
