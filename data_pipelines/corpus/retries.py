"""Requests to storage that fail for a while are sent again: with pauses, until a deadline.

The clients of buckets try a few times themselves (gcsfs and botocore: six and five); this is for
what still fails then, and for disks of a network.
"""

import errno
import os
from collections.abc import Callable
from typing import Any, TypeVar

from google.api_core import exceptions, retry

Result = TypeVar('Result')
# How long a request is repeated; one that is under way then is still waited for.
DEADLINE_SECS = float(os.environ.get('STORAGE_DEADLINE_SECS', '120'))
# What is not the storage's fault, and the same the next time.
_FINAL = (
  FileNotFoundError,
  FileExistsError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
)
_TRANSIENT_NUMBERS = {
  getattr(errno, name)
  for name in (
    'EIO EAGAIN EBUSY EINTR EPIPE ESTALE EREMOTEIO ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED '
    'ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENOTCONN'
  ).split()
}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
# Libraries of buckets whose errors are no OSErrors, or are such without a number.
_CLIENTS = ('aiohttp', 'requests', 'urllib3', 'botocore', 'google')


class StorageError(OSError):
  """Storage that stays away: worth another start, for no file and no flag is at fault."""


def is_transient(error: BaseException) -> bool:
  """Whether the same request may succeed later: timeouts, lost connections, 429 and 5xx."""
  if isinstance(error, StorageError):
    return False  # Has been repeated already.
  status = _status(error)
  if status is not None:
    return status in _TRANSIENT_STATUS
  if isinstance(error, OSError):
    if isinstance(error, (ValueError, *_FINAL)):
      return False
    if error.errno is not None:
      return error.errno in _TRANSIENT_NUMBERS or isinstance(error, (TimeoutError, ConnectionError))
    return 'orbidden' not in str(error)  # What gcsfs says of 403.
  return type(error).__module__.split('.')[0] in _CLIENTS


def _status(error: BaseException) -> int | None:
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


def call(function: Callable[..., Result], *arguments: Any) -> Result:
  """function(*arguments), again and again while its error is transient.

  Raises:
    StorageError: it still was after DEADLINE_SECS.
  """
  patient = retry.Retry(
    predicate=is_transient, initial=0.1, maximum=10.0, multiplier=2.0, timeout=DEADLINE_SECS
  )
  try:
    return patient(function)(*arguments)
  except exceptions.RetryError as error:
    raise StorageError(
      f'storage did not answer within {DEADLINE_SECS:g} s: {error.cause!r}'
    ) from error
