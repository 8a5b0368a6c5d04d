"""Who may see the page: this machine by its own name, or whoever knows the token."""

import asyncio

import pytest
from aiohttp import test_utils, web

from i2vgen_jax.studio import access

TOKEN = 'a-token'


def answers(token, requests):
  """(status, headers, text) of requests, each (method, path, headers), to a server of one page; a
  visitor keeps cookies."""

  async def page(request):
    return web.Response(text='the page')

  async def run():
    app = web.Application(middlewares=[access.middleware(token)])
    app.router.add_route('*', '/', page)
    found = []
    async with test_utils.TestServer(app) as server, test_utils.TestClient(server) as client:
      for method, path, headers in requests:
        async with client.request(method, path, headers=headers, allow_redirects=False) as answer:
          found.append((answer.status, answer.headers, await answer.text()))
    return found

  return asyncio.run(run())


def statuses(token, *requests):
  return [status for status, _, _ in answers(token, requests)]


def test_without_a_token_this_machine_alone_is_answered_by_its_own_name():
  by = lambda host: ('GET', '/', {'Host': host})  # noqa: E731
  own = [by('localhost:7860'), by('127.0.0.1'), by('[::1]:7860')]
  assert statuses('', *own) == [200] * 3
  assert statuses('', by('evil.example'), by('127.0.0.1.evil.example'), by('10.0.0.7')) == [403] * 3


def test_a_page_of_another_site_may_not_ask():
  host = {'Host': 'localhost:7860'}
  sent = lambda origin: ('POST', '/', host | {'Origin': origin})  # noqa: E731
  assert statuses('', sent('http://localhost:7860')) == [200]
  others = ('https://evil.example', 'http://localhost:1', 'null')
  assert statuses('', *map(sent, others)) == [403] * 3


def test_a_token_is_asked_for_once_and_then_known_by_a_cookie():
  first, wrong, right, after = answers(TOKEN, [
    ('GET', '/', {}), ('GET', '/?token=a-toke', {}), ('GET', f'/?token={TOKEN}', {}),
    ('GET', '/', {}),
  ])  # fmt: skip
  assert first[0] == wrong[0] == 403 and 'name="token"' in first[2] and 'the page' not in wrong[2]
  assert right[0] == 303 and right[1]['Location'] == '/'
  cookie = right[1]['Set-Cookie']
  assert 'HttpOnly' in cookie and 'SameSite=Lax' in cookie
  assert after[0] == 200 and after[2] == 'the page'
  assert statuses(TOKEN, ('POST', f'/?token={TOKEN}', {})) == [403]  # Only to enter.


def test_tokens_are_compared_in_constant_time(monkeypatch):
  compared = []
  same = access.hmac.compare_digest
  monkeypatch.setattr(
    access.hmac, 'compare_digest', lambda *pair: compared.append(pair) or same(*pair)
  )
  assert statuses(TOKEN, ('GET', '/?token=b', {})) == [403]
  assert (b'b', TOKEN.encode()) in compared


def test_every_answer_forbids_other_sites_scripts_and_frames():
  found = answers('', [('GET', '/', {'Host': 'localhost'}), ('GET', '/nothing', {'Host': '[::1]'})])
  found += answers(TOKEN, [('GET', '/', {})])
  assert [status for status, _, _ in found] == [200, 404, 403]
  for _, headers, _ in found:
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert 'unsafe' not in policy and 'http' not in policy
    assert headers['X-Content-Type-Options'] == 'nosniff'


@pytest.mark.parametrize(
  'host, given, wanted',
  [('127.0.0.1', None, ''), ('localhost', None, ''), ('::1', None, ''), ('127.0.0.1', 'x', 'x'),
   ('0.0.0.0', 'x', 'x')],
)  # fmt: skip
def test_a_token_is_needed_where_others_can_ask(host, given, wanted):
  assert access.choose_token(host, given) == wanted
  others = {access.choose_token('0.0.0.0', None), access.choose_token('box.example', None)}
  assert len(others) == 2 and all(len(token) >= 24 for token in others)
  with pytest.raises(ValueError, match='--token must not be empty'):
    access.choose_token('0.0.0.0', '')
