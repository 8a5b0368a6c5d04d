"""A web page that makes videos of a trained run: drop a picture, say what happens, watch.

  python -m i2vgen_jax.studio --workdir=DIR [--workdir=OTHER] [--refine_workdir=REFINE]

Open the address that it prints. Only this machine can; --host=0.0.0.0 lets others in, who need the
token that is printed with the address. The page shows for each video the `sample` command that
makes the same one. It calls nobody, and works without a network.
"""

from absl import flags

from i2vgen_jax.process import cli

if __name__ == '__main__':  # Above the other imports, which --help need not wait for.
  flags.DEFINE_multi_string(
    'workdir', None, 'Workdir of the trained run; repeat it to compare several.'
  )
  flags.DEFINE_string('refine_workdir', None, 'Workdir of a trained refinement stage.')
  flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 is all of them.')
  flags.DEFINE_integer(
    'port', 7860, 'Port to listen on; 0 takes a free one.', lower_bound=0, upper_bound=65535
  )
  flags.DEFINE_string(
    'token', None, 'What visitors must know; default none on this machine alone, else a new one.'
  )
  flags.mark_flags_as_required(['workdir'])
  cli.run(__file__)

import pathlib
import socket
import tempfile
import types

from i2vgen_jax.sampling import stage_flags
from i2vgen_jax.studio import maker as maker_lib
from i2vgen_jax.studio import runs as runs_lib


def main() -> None:
  """Checks the runs, loads the first one, and serves the page until a signal ends it."""
  given = flags.FLAGS
  server = import_server()
  for workdir in given.workdir:
    stage_flags.check_stages(workdir, given.refine_workdir)
  token = server.access.choose_token(given.host, given.token)
  listening = listen(given.host, given.port)
  runs = runs_lib.Runs(given.workdir, given.refine_workdir)
  maker = maker_lib.Maker(runs)
  maker.warm_up()
  with tempfile.TemporaryDirectory(prefix='studio_') as folder:
    server.serve(runs, maker, listening, given.host, token, pathlib.Path(folder))


def import_server() -> types.ModuleType:
  """The module `server`; raises ValueError without the extra that it needs."""
  try:
    import aiohttp  # noqa: F401
  except ImportError as error:
    raise ValueError('the page is served by aiohttp: pip install "i2vgen_jax[studio]".') from error
  from i2vgen_jax.studio import server

  return server


def listen(host: str, port: int) -> socket.socket:
  """A socket that listens; raises ValueError if the address cannot be had."""
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  try:
    return socket.create_server((host, port), family=family)
  except OSError as error:
    raise ValueError(
      f'--host={host} --port={port} cannot be listened on: {error.strerror or error}. Give another '
      '--port, or --port=0 for a free one.'
    ) from error
