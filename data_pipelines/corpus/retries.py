"""Requests to storage that fail for a while are sent again: with pauses, until a deadline.

The clients of buckets try a few times themselves (gcsfs and botocore: six and five); this is for
what still fails then, and for disks of a network.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

from data_pipelines.user_errors import StorageError

Result = TypeVar('Result')
# How long a request is repeated; one that is under way then is still waited for. At most so long
# that no decoder is taken for one that hangs (stream/decoder.py).
DEADLINE_SECS = min(120.0, float(os.environ.get('STORAGE_DEADLINE_SECS', 'inf')))
_TRANSIENT_NUMBERS = {
  getattr(errno, name)
  for name in (
    'EIO EAGAIN EBUSY EINTR EPIPE ESTALE EREMOTEIO ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED '
    'ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENOTCONN'
  ).split()
}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
# What clients of buckets say of connections; the rest of their errors tell a status or are final.
_LOST = {
  'aiohttp.client_exceptions.ClientError',
  'botocore.exceptions.HTTPClientError',
  'gcsfs.retry.ChecksumError',
  'google.auth.exceptions.TransportError',
  'requests.exceptions.RequestException',
  'urllib3.exceptions.HTTPError',
}


def is_transient(error: BaseException) -> bool:
  """Whether the same request may succeed later: timeouts, lost connections, 429 and 5xx."""
  if isinstance(error, StorageError):
    return False  # It has been repeated already.
  status = status_of(error)
  if status is not None:
    return status in _TRANSIENT_STATUS
  if isinstance(error, (TimeoutError, ConnectionError)):
    return True
  if any(f'{kind.__module__}.{kind.__qualname__}' in _LOST for kind in type(error).__mro__):
    return True  # Some are OSErrors with numbers of their own: a name that no server knows.
  if isinstance(error, OSError) and error.errno is not None:
    return error.errno in _TRANSIENT_NUMBERS
  return type(error) is OSError and 'Forbidden' not in str(error)  # What gcsfs says of 403.


def status_of(error: BaseException) -> int | None:
  """HTTP's, if the error of a client tells it."""
  response = getattr(error, 'response', None)
  if isinstance(response, dict):  # botocore's
    return response.get('ResponseMetadata', {}).get('HTTPStatusCode')
  for holder, name in ((error, 'status'), (error, 'code'), (response, 'status_code')):
    try:
      return int(getattr(holder, name))
    except (AttributeError, TypeError, ValueError):
      continue
  return None


def call(function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
  """function(*arguments, **options), again and again while its error is transient.

  Raises:
    StorageError: it still was after DEADLINE_SECS.
  """
  try:
    return function(*arguments, **options)
  except Exception as error:
    if not is_transient(error):
      raise
  # A quarter of a second: only for those who need it.
  from google.api_core import exceptions, retry

  patient = retry.Retry(
    predicate=is_transient, initial=0.1, maximum=10.0, multiplier=2.0, timeout=DEADLINE_SECS
  )
  try:
    return patient(function)(*arguments, **options)
  except exceptions.RetryError as error:
    raise StorageError(
      f'storage did not answer within {DEADLINE_SECS:g} s: {error.cause!r}'
    ) from error
