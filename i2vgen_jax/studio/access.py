"""Who may see the page: this machine, or whoever knows the token.

Without a token, requests must name this machine (a page of another site whose name was made to
point here does not), and none may be sent from a page of another site.
"""

import hmac
import ipaddress
import secrets
from urllib import parse

from aiohttp import typedefs, web

COOKIE = 'i2vgen_jax_studio'
# The page loads its own files alone, and stands in no other page.
POLICY = '; '.join([
  "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
  "img-src 'self' blob: data:", "media-src 'self'", "form-action 'self'", "base-uri 'none'",
  "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
  'Content-Security-Policy': POLICY,
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'private, no-cache',
}
DOOR = """<!DOCTYPE html><html lang="en"><meta charset="utf-8"><meta name="color-scheme"
content="light dark"><meta name="viewport" content="width=device-width"><title>Token</title>
<form><p><label>Token, as the command printed it: <input name="token" type="password" required
autofocus></label> <button>Enter</button></p></form></html>"""


def is_loopback(host: str) -> bool:
  """Whether an address, or a name, is of this machine alone."""
  try:
    return ipaddress.ip_address(host.strip('[]')).is_loopback
  except ValueError:
    return host.lower() == 'localhost'


def choose_token(host: str, token: str | None) -> str:
  """The token that visitors must know, '' for none.

  Args:
    host: that is listened on.
    token: that was given; None makes a new one, unless only this machine can ask.

  Raises:
    ValueError: an empty token where others can ask.
  """
  if token is None:
    return '' if is_loopback(host) else secrets.token_urlsafe(18)
  if not token and not is_loopback(host):
    raise ValueError(f'--host={host} lets others in: --token must not be empty; leave it out.')
  return token


def middleware(token: str) -> typedefs.Middleware:
  """Lets requests through that may see the page, and gives every answer its headers."""

  @web.middleware
  async def guard(request: web.Request, handler: typedefs.Handler) -> web.StreamResponse:
    try:
      refused = _refusal(request, token)
      response = await handler(request) if refused is None else refused
    except web.HTTPException as error:  # An answer too, such as 404.
      error.headers.update(HEADERS)
      raise
    response.headers.update(HEADERS)
    return response

  return guard


def _refusal(request: web.Request, token: str) -> web.Response | None:
  """The answer to who may not, or who has just shown the token; None lets pass."""
  host = parse.urlsplit(f'//{request.host}').hostname or ''
  if not token and not is_loopback(host):
    return web.Response(status=403, text='Ask by the name of this machine: localhost.')
  origin = request.headers.get('Origin')
  if origin is not None and parse.urlsplit(origin).netloc != request.host:
    return web.Response(status=403, text='Pages of other sites may not ask.')
  if not token or _same(request.cookies.get(COOKIE, ''), token):
    return None
  if request.method == 'GET' and _same(request.query.get('token', ''), token):
    entered = web.Response(status=303, headers={'Location': '/'})
    entered.set_cookie(COOKIE, token, httponly=True, samesite='Lax', path='/')
    return entered
  return web.Response(status=403, text=DOOR, content_type='text/html')


def _same(given: str, token: str) -> bool:
  """In a time that tells nothing of the token."""
  return hmac.compare_digest(given.encode(), token.encode())
