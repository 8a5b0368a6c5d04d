"""What a person needs of a page in a browser: that it fits, can be read, and is reached by keys."""

import json

import pytest

from tests import browser

SCREENS = [(width, scheme) for width in (390, 1280) for scheme in ('light', 'dark')]
needs_a_browser = pytest.mark.skipif(not browser.PATH, reason='needs chromium')
# Texts whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3), as [text, ratio].
_TOO_FAINT = """(() => {
  const parse = text => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = (top, under, alpha) =>
    top.slice(0, 3).map((value, i) => alpha * value + (1 - alpha) * under[i]);
  const ground = element => {
    const under = element.parentElement ? ground(element.parentElement) : [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    const found = over(own, under, own[3]), before = getComputedStyle(element, '::before');
    const tint = parse(before.backgroundColor);
    return before.content === 'none' ? found : over(tint, found, tint[3] * Number(before.opacity));
  };
  const luminance = colour => {
    const [r, g, b] = colour.map(value => value / 255).map(
      value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const own = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE);
    const text = own.map(node => node.data.trim()).join('');
    if (!text || !element.checkVisibility() || element.matches('script, style')) continue;
    const style = getComputedStyle(element), isDrawn = element.namespaceURI.endsWith('svg');
    const pair = [parse(isDrawn ? style.fill : style.color), ground(element)].map(luminance);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) found.push([text, ratio]);
  }
  return found;
})()"""
# What scrolls by itself and cannot be scrolled by keys: it has no focus, and nothing in it has.
_UNREACHABLE = """[...document.querySelectorAll('*')].filter(element =>
  ['auto', 'scroll'].includes(getComputedStyle(element).overflowX)
  && element.scrollWidth > element.clientWidth && element.tabIndex < 0
  && !element.querySelector('a, button, [tabindex="0"]')
).map(element => element.outerHTML.slice(0, 99))"""
# Texts of drawings that reach over their edge.
_CUT_OFF = """[...document.querySelectorAll('svg text')].filter(text => {
  const box = text.getBBox(), edge = text.ownerSVGElement.viewBox.baseVal;
  return box.x < 0 || box.x + box.width > edge.width || box.y + box.height > edge.height + 1;
}).map(text => text.textContent)"""
_NAMED = {'link', 'button', 'image', 'region', 'navigation', 'Video'}


def check(tab, width, scheme):
  """Asserts that the page of a tab can be used on a screen.

  Args:
    tab: of browser.Browser.
    width: of the screen, pixels.
    scheme: 'light' or 'dark'.
  """
  tab.show_as(width, 900, scheme, mobile=width < 500)
  tab.js('document.querySelectorAll("details").forEach(part => part.open = true)')
  missing = '[...document.images].filter(i => i.loading !== "lazy" && !i.naturalWidth).length'
  found = dict(
    too_wide=max(0, tab.js('document.documentElement.scrollWidth') - width),
    missing_pictures=tab.js(missing), too_faint=tab.js(_TOO_FAINT),
    unreachable=tab.js(_UNREACHABLE), cut_off=tab.js(_CUT_OFF), complaints=tab.complaints,
  )  # fmt: skip
  assert not any(found.values()), found
  nodes = tab.call('Accessibility.getFullAXTree')['nodes']
  seen = [node for node in nodes if not node.get('ignored')]
  used = [node for node in seen if node.get('role', {}).get('value') in _NAMED]
  nameless = [node['role']['value'] for node in used if not node.get('name', {}).get('value')]
  assert used and not nameless, nameless


def tab_to(tab, selector, most=400):
  """Presses Tab until what a selector names has the focus, which has to be seen."""
  is_there = f'document.activeElement.matches({json.dumps(selector)})'
  for _ in range(most):
    tab.press('Tab')
    if tab.js(is_there):
      assert tab.js('getComputedStyle(document.activeElement).outlineStyle') != 'none'
      return
  raise AssertionError(f'{selector} is not reached')
