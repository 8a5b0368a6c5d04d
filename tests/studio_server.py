"""A process of i2vgen_jax.studio, and what is asked of it over HTTP."""

import contextlib
import http.client
import json
import signal
import subprocess
import sys
import urllib.parse

from tests import runs

ENDED = ('done', 'failed', 'cancelled')


@contextlib.contextmanager
def serving(workdir, *more):
  """(address, process) of a server of its own."""
  command = [sys.executable, '-m', 'i2vgen_jax.studio', f'--workdir={workdir}', '--port=0', *more]
  process = subprocess.Popen(
    command, cwd=runs.ROOT, env=runs.environment(), stdout=subprocess.PIPE, text=True
  )
  try:
    address = process.stdout.readline().strip()
    assert address, 'It has not started: its stderr says why.'
    yield address, process
  finally:
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()


def request(address, method, path, body=None, **headers):
  """(status, headers, bytes); the path is sent as it is."""
  connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=120)
  connection.request(method, path, body, headers)
  answer = connection.getresponse()
  found = answer.status, answer.headers, answer.read()
  connection.close()
  return found


def ask(address, picture, **fields):
  """(status, answer) of a form."""
  parts = [
    f'--x\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}' for n, v in fields.items()
  ]
  head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{picture.name}"\r\n\r\n'
  text = '\r\n'.join([*parts, head]).encode()
  body = text + picture.read_bytes() + b'\r\n--x--\r\n'
  kind = {'Content-Type': 'multipart/form-data; boundary=x'}
  status, _, answer = request(address, 'POST', '/videos', body, **kind)
  return status, json.loads(answer)


def follow(address, job, until=ENDED):
  """The job once it is in one of these states."""
  while job['state'] not in until:
    path = f'/videos/{job["name"]}?after={job["version"]}'
    job = json.loads(request(address, 'GET', path)[2])
  return job
