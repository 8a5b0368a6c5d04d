"""Every shell block of a page says whether it runs; docs/run_blocks.py runs it."""

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location('run_blocks', ROOT / 'docs' / 'run_blocks.py')
run_blocks = importlib.util.module_from_spec(SPEC)
sys.modules['run_blocks'] = run_blocks  # Where dataclasses look for their types.
SPEC.loader.exec_module(run_blocks)

PAGE = """
<!-- run -->
```bash
echo one > made
```

<!-- run FOLDER=made/here long: 1 minute -->

```bash
ls FOLDER && echo "FOLDERS"
```
<!-- not run: needs a TPU -->
```bash
false
```
```python
print('no shell')
```
```bash
echo not marked
```
```
no command
```
```
python -m in_no_language
```
"""


def test_marks_say_what_is_done_with_a_block():
  one, two, three, four, five = run_blocks.blocks_of('page.md', PAGE)
  assert (one.line, one.script, one.skipped(0)) == (4, 'echo one > made', '')
  assert two.script == 'ls made/here && echo "FOLDERS"' and two.skipped(1) == ''
  assert two.skipped(0.5) == 'takes 1 minute' and three.skipped(99) == 'needs a TPU'
  assert four.mark is None and four.skipped(99)
  assert five.mark is None and five.text == 'python -m in_no_language'


@pytest.mark.parametrize('page', run_blocks.pages())
def test_every_shell_block_is_marked_and_none_is_indented(page):
  text = (ROOT / page).read_text()
  unmarked = [block.line for block in run_blocks.blocks_of(page, text) if block.mark is None]
  assert not unmarked, f'{page}: write <!-- run --> or <!-- not run: why --> above these lines.'
  assert '\n\n    ' not in text, f'{page}: fence the block, so that it can be marked.'


def test_the_pages_have_blocks_that_run():
  found = [
    block
    for page in run_blocks.pages()
    for block in run_blocks.blocks_of(page, (ROOT / page).read_text())
  ]
  assert sum(not block.skipped(30) for block in found) > 10


def test_a_block_runs_to_its_first_error_and_is_logged(tmp_path):
  good, *_ = run_blocks.blocks_of('page.md', PAGE)
  bad, *_ = run_blocks.blocks_of(
    'page.md', '<!-- run -->\n```bash\nfalse | cat\ntouch later\n```\n'
  )
  log = tmp_path / 'blocks.log'
  assert run_blocks.run(good, tmp_path, log) == 0 and (tmp_path / 'made').read_text() == 'one\n'
  assert run_blocks.run(bad, tmp_path, log) == 1 and not (tmp_path / 'later').exists()
  assert '=== page.md:4\necho one > made' in log.read_text()


def test_the_folder_holds_the_files_of_the_repository(tmp_path):
  run_blocks.copy_repository(tmp_path)
  assert (tmp_path / 'docs' / 'run_blocks.py').exists() and (tmp_path / 'configs').is_dir()
  assert not (tmp_path / '.git').exists()
