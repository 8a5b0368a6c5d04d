"""The page can be read, and is of this server alone."""

from tests import runs
from tests.data_pipelines.test_pages import contrast


def test_its_colours_have_the_contrasts_of_wcag_aa():
  """1.4.3: 4.5 for text. 1.4.11: 3 for what is used."""
  style = (runs.ROOT / 'i2vgen_jax' / 'studio' / 'page.css').read_text()
  blocks = [line for line in style.splitlines() if ':root {' in line]
  assert len(blocks) == 2
  for block in blocks:
    pairs = [part.split(':') for part in block.partition(':root {')[2].partition('}')[0].split(';')]
    found = {pair[0].strip(): bytes.fromhex(pair[1].strip()[1:]) for pair in pairs if len(pair) > 1}
    for ground in ('--page', '--soft'):
      for text in ('--ink', '--quiet', '--link', '--bad'):
        assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
    assert contrast(found['--on'], found['--link']) >= 4.5
    assert contrast(found['--edge'], found['--page']) >= 3


def test_a_page_names_no_other_site():
  for name in ('page.html', 'page.css', 'page.js'):
    text = (runs.ROOT / 'i2vgen_jax' / 'studio' / name).read_text()
    assert '//' not in text.replace('// ', '').replace('//\n', ''), name
