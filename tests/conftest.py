"""Eight CPU devices for every test, and one compilation cache for all processes of a test run; set
before JAX starts."""

import os
import shutil
import tempfile

import filelock
import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT'] = 'false'  # gcsfs reads it at import.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
  # Compilation is most of the tests' time; what they compute is small.
  ' --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
)
if 'PYTEST_XDIST_WORKER' not in os.environ:  # Workers inherit it.
  _CACHE = tempfile.TemporaryDirectory(prefix='i2vgen_jax_cache_')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '1'


def pytest_collection_modifyitems(config, items):
  """Files that compile, which take minutes each, come first: so no process is left with one while
  the other has nothing more to do. Of those that need the finished run, which is made once, one is
  the first and the others are late: so that nobody waits for it."""
  tests = config.rootpath / 'tests'
  short = {tests / name for name in ('data_pipelines', 'launch', 'media_kinds')}
  needing = {item.path for item in items if 'finished_run' in item.fixturenames}
  maker = tests / 'i2vgen_jax' / 'test_train.py'

  def order(item):
    return (
      not short.isdisjoint(item.path.parents),
      item.path != maker and maker in needing,
      item.path in needing,
    )

  items.sort(key=order)


def made_once(tmp_path_factory, name, make):
  """A folder that the first of the test processes makes with make(folder), for all of them."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / name
  with filelock.FileLock(f'{folder}.lock'):
    if not folder.exists():
      part = folder.with_name(f'{name}.part')
      make(part)
      part.rename(folder)
  return folder


@pytest.fixture(scope='session')
def gs_server():
  """URL of a server of gs:// on this machine."""
  from tests import emulators

  with emulators.gs_server() as url:
    yield url


@pytest.fixture(scope='module')
def gs_bucket(gs_server):
  """A gcsfs file system whose bucket gs://held is new and empty."""
  from tests import emulators

  with emulators.gs_bucket(gs_server, 'held') as client:
    yield client


@pytest.fixture(scope='session')
def demo_corpus(tmp_path_factory):
  """A folder with videos/ and images/, ingested from a small demo corpus."""
  from data_pipelines import demo_corpus
  from data_pipelines.ingest import command as ingest

  def make(folder):
    source = tmp_path_factory.mktemp('demo')
    demo_corpus.write(str(source), num_videos=48, num_validation=16, num_images=32)
    for name, part in (('videos', 'webvid'), ('images', 'images')):
      ingest.ingest(str(source / part), str(folder / name), num_processes=1)

  return made_once(tmp_path_factory, 'demo_corpus', make)


@pytest.fixture(scope='session')
def media_folder(tmp_path_factory):
  """A folder with videos/ and images/ as tests/media.py writes them."""
  from tests import media

  return made_once(tmp_path_factory, 'media', media.write)


@pytest.fixture(scope='session')
def finished_run(demo_corpus, tmp_path_factory):
  """The workdir of six steps of the tiny config in one go, on one device, each of them saved.

  All test processes share it: what trains there, or holds its lease, does so in `own_run`.
  """
  from tests import runs

  def make(folder):
    process = runs.start(folder, demo_corpus, 'checkpoint.every=1', 'checkpoint.keep_every=1')
    _, log = process.communicate(timeout=900)
    assert process.returncode == 0, log[-3000:]
    (folder / 'lease.json').unlink()

  folder = made_once(tmp_path_factory, 'finished_run', make)
  yield folder
  assert not (folder / 'lease.json').exists(), 'A test trained in the run that all share.'


@pytest.fixture
def own_run(finished_run, tmp_path):
  """A copy of the finished run, for one test."""
  return shutil.copytree(finished_run, tmp_path / 'own_run')


@pytest.fixture(scope='session')
def t5_tokenizer(tmp_path_factory):
  """A folder with T5's tokenizer of the demo's words: trained here, by the tokenizers library."""
  import json

  import tokenizers

  folder = tmp_path_factory.mktemp('t5')
  made = tokenizers.Tokenizer(tokenizers.models.Unigram())
  made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  trainer = tokenizers.trainers.UnigramTrainer(
    vocab_size=60, special_tokens=['<pad>', '</s>', '<unk>'], unk_token='<unk>'
  )
  made.train_from_iterator(['a red circle moves left', 'a blue square moves right'] * 9, trainer)
  made.post_processor = tokenizers.processors.TemplateProcessing(
    single='$A </s>', special_tokens=[('</s>', 1)]
  )
  made.save(str(folder / 'tokenizer.json'))
  settings = dict(tokenizer_class='T5TokenizerFast', extra_ids=0)
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return folder
