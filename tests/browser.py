"""Chromium without a window, driven by its DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import pathlib
import shutil
import subprocess
import time

import aiohttp

PATH = shutil.which('chromium')
FLAGS = (
  '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--remote-debugging-port=0',
  '--disable-background-networking', '--disable-dev-shm-usage', '--mute-audio',
  '--window-size=1280,900',
)  # fmt: skip
KEYS = {'Tab': 9, 'Enter': 13, ' ': 32}
CONTROL, SHIFT = 2, 8


class Browser:
  """Opens tabs; every call waits for its answer."""

  def __init__(self, loop, session, port):
    self._loop, self._session, self._port = loop, session, port

  def open(self, url):
    """A tab at a URL."""

    async def connect():
      address = f'http://127.0.0.1:{self._port}/json/new?about:blank'
      async with self._session.put(address) as answer:
        target = json.loads(await answer.text())
      return await self._session.ws_connect(target['webSocketDebuggerUrl'], max_msg_size=0)

    tab = Tab(self._loop, self._loop.run_until_complete(connect()))
    tab.go(url)
    return tab


class Tab:
  """A page.

  Attributes:
    complaints: what scripts threw, and what its console warned of.
    requested: URLs that it asked for.
  """

  def __init__(self, loop, socket):
    self._loop, self._socket, self._numbers = loop, socket, itertools.count()
    self.complaints, self.requested = [], []
    for domain in ('Page', 'Runtime', 'Log', 'Network', 'DOM'):
      self.call(f'{domain}.enable')

  def go(self, url):
    """Opens a URL and waits for it."""
    self.call('Page.navigate', url=url)
    self.wait('document.readyState === "complete" && location.href !== "about:blank"')

  def call(self, method, **parameters):
    """The answer of the DevTools protocol to a method."""
    return self._loop.run_until_complete(self._call(method, parameters))

  async def _call(self, method, parameters):
    number = next(self._numbers)
    await self._socket.send_json({'id': number, 'method': method, 'params': parameters})
    while True:
      message = await self._socket.receive_json(timeout=60)
      if message.get('id') == number:
        assert 'error' not in message, (method, message['error'])
        return message['result']
      self._note(message.get('method'), message.get('params', {}))

  def _note(self, event, parameters):
    if event == 'Runtime.exceptionThrown':
      self.complaints.append(str(parameters['exceptionDetails']))
    elif event == 'Log.entryAdded' and parameters['entry']['level'] in ('error', 'warning'):
      self.complaints.append(parameters['entry']['text'])
    elif event == 'Network.requestWillBeSent':
      self.requested.append(parameters['request']['url'])

  def js(self, expression):
    """The value of an expression."""
    result = self.call(
      'Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True
    )
    assert 'exceptionDetails' not in result, (expression, result['exceptionDetails'])
    return result['result'].get('value')

  def wait(self, expression, secs=60):
    """The value of an expression, once it is true."""
    until = time.monotonic() + secs
    while not (value := self.js(expression)):
      assert time.monotonic() < until, f'{expression}: {self.js("document.body.innerText")}'
      time.sleep(0.05)
    return value

  def upload(self, selector, *paths):
    """Chooses files in a file input, as its dialog would."""
    root = self.call('DOM.getDocument')['root']['nodeId']
    node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
    self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path) for path in paths])

  def press(self, key, modifiers=0):
    """Presses a key and lets it go."""
    code = dict(
      key=key, code='Space' if key == ' ' else key, windowsVirtualKeyCode=KEYS[key],
      modifiers=modifiers,
    )  # fmt: skip
    text = {'Enter': '\r', ' ': ' '}.get(key)
    down = dict(type='keyDown', text=text) if text and not modifiers else dict(type='rawKeyDown')
    self.call('Input.dispatchKeyEvent', **down, **code)
    self.call('Input.dispatchKeyEvent', type='keyUp', **code)

  def type(self, text):
    """Types into what has the focus."""
    self.call('Input.insertText', text=text)

  def show_as(self, width, height, scheme='light', mobile=False):
    """As a screen of this size in pixels, light or dark."""
    self.call(
      'Emulation.setDeviceMetricsOverride', width=width, height=height, mobile=mobile,
      deviceScaleFactor=1,
    )  # fmt: skip
    features = [dict(name='prefers-color-scheme', value=scheme)]
    self.call('Emulation.setEmulatedMedia', features=features)

  def screenshot(self, path, whole=True):
    """Writes a PNG of the page."""
    found = self.call('Page.captureScreenshot', captureBeyondViewport=whole)
    pathlib.Path(path).write_bytes(base64.b64decode(found['data']))


@contextlib.contextmanager
def chromium(profile):
  """A Browser whose profile is a new folder."""
  command = [PATH, *FLAGS, f'--user-data-dir={profile}', 'about:blank']
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  loop = asyncio.new_event_loop()
  try:
    told, until = pathlib.Path(profile) / 'DevToolsActivePort', time.monotonic() + 120
    while not (told.exists() and told.read_text().count('\n')):
      assert process.poll() is None and time.monotonic() < until
      time.sleep(0.05)

    async def start():
      return aiohttp.ClientSession()

    session = loop.run_until_complete(start())
    yield Browser(loop, session, told.read_text().split()[0])
    loop.run_until_complete(session.close())
  finally:
    process.terminate()
    process.wait(30)
    loop.close()
