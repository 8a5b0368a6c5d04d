"""Outputs appear whole or not at all, on a disk and in a bucket."""

import errno

import pytest
from etils import epath

from data_pipelines.corpus import retries, storage
from i2vgen_jax.process import output_folder


@pytest.fixture(params=['disk', 'gs'])
def folder(request, tmp_path):
  if request.param == 'gs':
    request.getfixturevalue('gs_bucket')
    return epath.Path('gs://held/outputs')
  return epath.Path(tmp_path)


def write(output, names):
  with output_folder.written_whole(output) as part:
    for name in names:
      (part / name).parent.mkdir(parents=True, exist_ok=True)
      (part / name).write_text(name)
    if not names:
      raise KeyError('failed')


def test_a_folder_is_written_whole_or_not_at_all(folder):
  output = folder / 'export'
  with pytest.raises(KeyError):
    write(output, [])
  assert not output.exists()
  write(output, ['model_index.json', 'unet/config.json'])
  assert (output / 'unet/config.json').read_text() == 'unet/config.json'
  with pytest.raises(ValueError, match='exists: remove it'):
    write(output, ['other'])


def test_an_upload_that_fails_takes_back_what_it_wrote(gs_bucket, monkeypatch):
  copy = type(epath.Path('/')).copy

  def failing(self, target, overwrite=False):
    if self.name == 'last':
      raise PermissionError('quota')
    return copy(self, target, overwrite=overwrite)

  monkeypatch.setattr(storage, 'in_threads', lambda function, items: list(map(function, items)))
  monkeypatch.setattr(type(epath.Path('/')), 'copy', failing)
  with pytest.raises(PermissionError):
    write('gs://held/outputs/failed', ['first', 'last'])
  assert not gs_bucket.exists('held/outputs/failed')


def test_a_file_of_a_library_is_written_whole_or_not_at_all(folder):
  path = folder / 'file.pth'
  with pytest.raises(KeyError), storage.written(path) as local:
    local.write_text('half')
    raise KeyError
  assert not path.exists() and not [file for file in folder.glob('*') if 'file' in file.name]
  with storage.written(path) as local:
    local.write_text('whole')
  assert path.read_text() == 'whole'


def test_a_disk_that_fails_is_not_called_unwritable(tmp_path, monkeypatch):
  """Launchers start such a run again; that of a wrong path they do not."""

  def fail(**options):
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(retries, 'DEADLINE_SECS', 0.2)
  monkeypatch.setattr(output_folder.tempfile, 'TemporaryFile', fail)
  with pytest.raises(retries.StorageError):
    output_folder.check_writable(tmp_path / 'new')
