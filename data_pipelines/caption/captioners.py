"""What writes captions: a function of the user's, or a model behind an OpenAI-compatible endpoint.

Servers such as vLLM, llama.cpp and Ollama speak that protocol, mostly on the machine itself. Frames
go there as JPEGs within the request; nothing is sent anywhere but to the URL that is given.
"""

import base64
import concurrent.futures
import dataclasses
import importlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import simplejpeg

from data_pipelines.corpus import retries
from data_pipelines.media import errors, failures

PROMPT = (
  'These frames are of one video shot, in order. Describe in one sentence what is seen and how it '
  'moves. Answer with the sentence alone.'
)
JPEG_QUALITY = 90
TIMEOUT_SECS = 120.0
MAX_TOKENS = 200


@dataclasses.dataclass(frozen=True)
class Clip:
  """What is to be captioned.

  Attributes:
    key: of the example.
    caption: that came with it.
    frames_FHWC: uint8, RGB, some frames of a shot in order; one of an image.
  """

  key: str
  caption: str
  frames_FHWC: np.ndarray


class Captioner(Protocol):
  """Clips -> captions; picklable."""

  def identity(self) -> dict[str, Any]:
    """For JSON: changes with what it would say."""

  def __call__(self, clips: Sequence[Clip]) -> list[str | errors.DecodeError]:
    """A caption of each, or why there is none."""


@dataclasses.dataclass(frozen=True)
class ByFunction:
  """A function of the user's.

  Attributes:
    path: 'module:function'; the function maps a list of Clips to as many strings.
  """

  path: str

  def __post_init__(self):
    self._function()

  def _function(self) -> Any:
    module, _, name = self.path.partition(':')
    try:
      return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
      raise ValueError(
        f'--by={self.path} cannot be loaded: {error}. It should be module:function.'
      ) from error

  def identity(self) -> dict[str, Any]:
    """Its path: a function of the same name is taken for the same."""
    return dict(function=self.path)

  def __call__(self, clips: Sequence[Clip]) -> list[str | errors.DecodeError]:
    """Raises ValueError if the function returns something else than as many strings."""
    try:
      found = list(self._function()(clips))
    except Exception as error:  # As of a hook: one batch never ends a command.
      return [failures.of(error)] * len(clips)
    if len(found) != len(clips) or not all(isinstance(text, str) for text in found):
      raise ValueError(f'--by={self.path} should return a string for each of {len(clips)} clips.')
    return found


@dataclasses.dataclass(frozen=True)
class ByServer:
  """A model behind an OpenAI-compatible endpoint; a key, if it needs one, is in OPENAI_API_KEY.

  Attributes:
    url: such as http://127.0.0.1:8000/v1.
    model: its name there.
    prompt: what it is asked.
    in_flight: requests at a time.
  """

  url: str
  model: str
  prompt: str = PROMPT
  in_flight: int = 8

  def __post_init__(self):
    if not self.url.startswith(('http://', 'https://')):
      raise ValueError(f'--server={self.url} should be a URL such as http://127.0.0.1:8000/v1.')

  def identity(self) -> dict[str, Any]:
    """Model and prompt, not where it runs."""
    return dict(model=self.model, prompt=self.prompt)

  def __call__(self, clips: Sequence[Clip]) -> list[str | errors.DecodeError]:
    """Raises retries.StorageError if the server does not answer at all."""
    with concurrent.futures.ThreadPoolExecutor(self.in_flight) as pool:
      return list(pool.map(self._ask, clips))

  def _ask(self, clip: Clip) -> str | errors.DecodeError:
    try:
      answer = retries.call(self._request, clip)
      return answer['choices'][0]['message']['content'].strip()
    except retries.StorageError as error:
      raise retries.StorageError(f'--server={self.url} did not answer: {error}') from error
    except urllib.error.HTTPError as error:  # This request is at fault, or all are: then it ends.
      if error.code in (401, 403, 404):
        raise ValueError(
          f'--server={self.url} answers {error.code} {error.reason}: check the URL, '
          f'--model={self.model} and OPENAI_API_KEY.'
        ) from error
      return errors.DecodeError('caption_refused', f'{error.code} {error.reason}')
    except (ValueError, LookupError, TypeError, AttributeError) as error:
      return errors.DecodeError('caption_answer', f'{type(error).__name__}: {error}')

  def _request(self, clip: Clip) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [dict(type='text', text=self.prompt)]
    for frame_HWC in clip.frames_FHWC:
      data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame_HWC), quality=JPEG_QUALITY)
      url = f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'
      parts.append(dict(type='image_url', image_url=dict(url=url)))
    body = dict(
      model=self.model,
      messages=[dict(role='user', content=parts)],
      max_tokens=MAX_TOKENS,
      temperature=0.0,
      seed=0,
    )
    headers = {'Content-Type': 'application/json'}
    if key := os.environ.get('OPENAI_API_KEY'):
      headers['Authorization'] = f'Bearer {key}'
    request = urllib.request.Request(
      f'{self.url.rstrip("/")}/chat/completions', json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECS) as response:
      return json.load(response)
