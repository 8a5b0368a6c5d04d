"""Eight CPU devices for every test, and one compilation cache for all processes of a test run; set
before JAX starts."""

import os
import tempfile

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
  # Compilation is most of the tests' time; what they compute is small.
  ' --xla_backend_optimization_level=0'
)
if 'PYTEST_XDIST_WORKER' not in os.environ:  # Workers inherit it.
  _CACHE = tempfile.TemporaryDirectory(prefix='i2vgen_jax_cache_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '1'


@pytest.fixture(scope='session')
def demo_corpus(tmp_path_factory):
  """A folder with videos/ and images/, ingested from a small demo corpus."""
  from data_pipelines import demo_corpus, ingest

  root = tmp_path_factory.mktemp('demo')
  demo_corpus.write(str(root / 'source'), num_videos=48, num_validation=16, num_images=32)
  for name, source in (('videos', 'webvid'), ('images', 'images')):
    ingest.ingest(str(root / 'source' / source), str(root / 'corpus' / name), num_processes=1)
  return root / 'corpus'


@pytest.fixture(scope='session')
def finished_run(demo_corpus, tmp_path_factory):
  """The workdir of six steps of the tiny config in one go, on one device."""
  from tests import runs

  workdir = tmp_path_factory.mktemp('finished')
  process = runs.start(workdir, demo_corpus)
  _, log = process.communicate(timeout=900)
  assert process.returncode == 0, log[-3000:]
  return workdir
