"""The page as a user has it: a server of its own, asked over HTTP and through Chromium."""

import json
import shlex
import subprocess
import sys
import urllib.parse

import PIL.Image
import pytest

from tests import browser as browser_lib
from tests import runs, studio_server

MANY = 900  # Steps: more than any test waits for.
needs_a_browser = pytest.mark.skipif(not browser_lib.PATH, reason='needs chromium')


@pytest.fixture(scope='module')
def address(finished_run):
  with studio_server.serving(finished_run) as (address, _):
    yield address


@pytest.fixture(scope='module')
def picture(tmp_path_factory):
  path = tmp_path_factory.mktemp('picture') / 'a red one.png'
  PIL.Image.new('RGB', (50, 40), (180, 30, 30)).save(path)
  return path


@pytest.fixture(scope='module')
def job(address, picture):
  """That made a video."""
  fields = dict(prompt='a red circle', seed='5', sampler='dpmpp_2m_sde', guidance='2.5', steps='3')
  status, job = studio_server.ask(address, picture, **fields)
  assert status == 201
  return studio_server.follow(address, job)


def test_the_video_is_to_the_bit_that_of_the_command_that_is_shown(address, job, picture, tmp_path):
  assert job['state'] == 'done', job['error']
  [video] = job['videos']
  assert (video['done'], video['total'], video['size']) == (3, 3, [4, 32, 32])
  assert video['previews'] >= 1
  files = f'/videos/{job["name"]}/0'
  _, headers, made = studio_server.request(address, 'GET', f'{files}/video.mp4')
  assert headers['Content-Type'] == 'video/mp4'
  assert studio_server.request(address, 'GET', f'{files}/video.gif')[2][:6] == b'GIF89a'
  assert studio_server.request(address, 'GET', f'{files}/preview')[2][8:12] == b'WEBP'
  status, _, part = studio_server.request(address, 'GET', f'{files}/video.mp4', Range='bytes=4-7')
  assert status == 206 and part == made[4:8] == b'ftyp'
  (tmp_path / picture.name).write_bytes(picture.read_bytes())
  words = shlex.split(video['command'])
  environment = runs.environment() | {'PYTHONPATH': str(runs.ROOT)}
  done = subprocess.run(
    [sys.executable, *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'video.mp4').read_bytes() == made


def test_bad_requests_are_answered_in_words(address, picture, tmp_path):
  bad = tmp_path / 'bad.png'
  bad.write_text('# no picture')
  status, answer = studio_server.ask(address, bad, prompt='a')
  assert status == 422 and answer['error'].startswith('image bad.png cannot be read')
  status, answer = studio_server.ask(address, picture, prompt='a', width='65')
  assert status == 422 and 'size 65x32 must be multiples of 8' in answer['error']
  assert studio_server.request(address, 'POST', '/videos', b'')[0] == 422
  bad.write_bytes(b'x' * 41_000_000)
  status, answer = studio_server.ask(address, bad, prompt='a')
  assert status == 422 and 'too large' in answer['error']


@pytest.mark.parametrize(
  'path',
  ['/../../../../etc/passwd', '/%2e%2e/%2e%2e/etc/passwd', '//etc/passwd', '/server.py',
   '/page.html', '/page.js/../server.py', '/videos/../../../etc/passwd',
   '/videos/{job}/0/../../../etc/passwd', '/videos/{job}/0/%2e%2e%2f%2e%2e%2fetc%2fpasswd',
   '/videos/{job}/0/video.mp4/../../0', '/videos/{job}/1/video.mp4', '/videos/nobody',
   '/file=/etc/passwd', '/static/page.js'],
)  # fmt: skip
def test_no_file_of_the_machine_can_be_read(path, address, job):
  status, _, body = studio_server.request(address, 'GET', path.replace('{job}', job['name']))
  assert status in (400, 404) and b'root:' not in body and b'import' not in body


@pytest.mark.slow
def test_others_need_the_token_that_is_printed_once(finished_run):
  with studio_server.serving(finished_run, '--host=0.0.0.0') as (printed, _):
    parts = urllib.parse.urlsplit(printed)
    token = urllib.parse.parse_qs(parts.query)['token'][0]
    local = f'http://127.0.0.1:{parts.port}/'
    assert studio_server.request(local, 'GET', '/')[0] == 403
    assert studio_server.request(local, 'GET', '/page.js')[0] == 403
    status, headers, _ = studio_server.request(local, 'GET', f'/?token={token}')
    assert status == 303
    cookie = headers['Set-Cookie'].partition(';')[0]
    status, _, page = studio_server.request(local, 'GET', '/', Cookie=cookie)
    assert status == 200 and token.encode() not in page


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  with browser_lib.chromium(tmp_path_factory.mktemp('chromium')) as chromium:
    yield chromium


@pytest.fixture
def tab(chromium, address):
  return chromium.open(address)


def fill(tab, picture, prompt='a red circle', **fields):
  tab.upload('#image', picture)
  for name, value in dict(prompt=prompt, **fields).items():
    tab.js(f'document.querySelector("[name={name}]").value = {json.dumps(str(value))}')


def press(tab, selector):
  tab.js(f'document.querySelector("{selector}").click()')


def state(tab):
  return tab.js('document.querySelector("article .state").textContent')


SHOWN = 'document.querySelector("article.done video")?.readyState >= 2'


@needs_a_browser
def test_a_picture_becomes_a_video_that_plays(tab, picture):
  fill(tab, picture, steps=40)
  press(tab, '#make')
  tab.wait('document.querySelector("article .look")?.naturalWidth > 0')
  tab.wait(SHOWN)
  tab.wait('document.querySelector("video").currentTime > 0')
  assert tab.js('document.querySelector("video").videoWidth') == 32
  assert tab.js('document.querySelector(".mp4").href.endsWith("/0/video.mp4")')
  assert tab.js('document.querySelector("code").textContent').startswith('python -m i2vgen_jax.sam')
  own = tab.js('location.origin')
  asked = [url for url in tab.requested if not url.startswith(('data:', 'blob:'))]
  assert asked and all(url.startswith(own) for url in asked)
  assert not tab.complaints


@needs_a_browser
def test_two_seeds_are_shown_beside_each_other(tab, picture):
  tab.show_as(1280, 900)
  fill(tab, picture, other_seed=9)
  tab.js('document.getElementById("comparing").open = true')
  press(tab, '#make')
  tab.wait('document.querySelectorAll("article.done video").length === 2')
  tops = tab.js('[...document.querySelectorAll("figure")].map(f => f.getBoundingClientRect().top)')
  assert tops[0] == tops[1]
  shown = tab.js('[...document.querySelectorAll("code")].map(c => c.textContent)')
  assert '--seed=0' in shown[0] and '--seed=9' in shown[1]


@needs_a_browser
def test_a_video_is_cancelled_and_the_next_one_is_made(tab, picture):
  fill(tab, picture, steps=MANY)
  press(tab, '#make')
  tab.wait('document.querySelector("article .state")?.textContent.startsWith("Step ")')
  press(tab, '.cancel')
  tab.wait('!!document.querySelector("article.cancelled")', secs=10)
  assert state(tab) == 'Cancelled.'
  fill(tab, picture, steps=2)
  press(tab, '#make')
  tab.wait(SHOWN)


@needs_a_browser
def test_of_two_users_one_waits_and_sees_for_how_many(chromium, address, picture):
  one, other = chromium.open(address), chromium.open(address)
  fill(one, picture, steps=MANY)
  press(one, '#make')
  one.wait('document.querySelector("article .state")?.textContent.startsWith("Step ")')
  fill(other, picture, steps=2)
  press(other, '#make')
  other.wait('document.querySelector("article .state")?.textContent === "Waiting: 1 before it."')
  press(one, '.cancel')
  other.wait(SHOWN)
  assert one.js('document.querySelector("article").className') == 'cancelled'


@needs_a_browser
def test_what_is_wrong_is_said_where_it_is_read_aloud(tab, picture, tmp_path):
  bad = tmp_path / 'bad.png'
  bad.write_text('# no picture')
  fill(tab, bad)
  press(tab, '#make')
  error = 'document.getElementById("error")'
  text = tab.wait(f'!{error}.hidden && {error}.textContent')
  assert text.startswith('image bad.png cannot be read') and 'Traceback' not in text
  assert tab.js(f'{error}.role === "alert" && document.activeElement === {error}')
  fill(tab, picture, width=65)
  press(tab, '#make')
  tab.wait(f'{error}.textContent.startsWith("size 65x32 must be multiples of 8 pixels")')
  assert tab.js('document.querySelector("article") === null')


@needs_a_browser
def test_all_is_done_by_the_keyboard_alone(tab, picture):
  """But for the dialog of files, which is the system's."""
  name = (
    'document.activeElement.name || document.activeElement.className || document.activeElement.id'
  )

  def tab_to(wanted, most=40):
    for _ in range(most):
      tab.press('Tab')
      if tab.js(name) == wanted:
        outline = tab.js('getComputedStyle(document.activeElement).outlineStyle')
        assert outline == 'solid', wanted
        return
    raise AssertionError(f'{wanted} is not reached')

  tab_to('skip')
  tab_to('image')
  tab.upload('#image', picture)
  tab_to('prompt')
  tab.type('a red circle')
  tab.press('Enter', browser_lib.CONTROL)
  tab.wait(SHOWN)
  tab_to('main')
  tab.press('Enter')
  tab.wait('document.querySelectorAll("article.done").length === 2')
  tab_to('mp4')
  tab_to('play')
  tab.press(' ')
  tab.wait('document.querySelector("article video").paused')


@needs_a_browser
@pytest.mark.parametrize('width', [375, 1280])
def test_it_fits_its_screen_and_all_that_is_used_has_a_name(width, tab, picture):
  tab.show_as(width, 800, 'dark', mobile=width < 500)
  tab.js('for (const part of document.querySelectorAll("details")) part.open = true')
  fill(tab, picture, steps=2)
  press(tab, '#make')
  tab.wait(SHOWN)
  assert tab.js('document.documentElement.scrollWidth') <= width
  nodes = tab.call('Accessibility.getFullAXTree')['nodes']
  used = {'textbox', 'spinbutton', 'combobox', 'button', 'link', 'checkbox', 'Video', 'progressbar'}
  found = [node for node in nodes if node.get('role', {}).get('value') in used]
  nameless = [node['role']['value'] for node in found if not node.get('name', {}).get('value')]
  assert len(found) > 15 and not nameless


def test_without_its_extra_the_command_says_what_to_install(finished_run):
  line = ['ABSENT=aiohttp', 'i2vgen_jax.studio', f'--workdir={finished_run}']
  [(code, _, stderr)] = runs.commands({'absent': line}).values()
  assert code == 2 and stderr.splitlines()[-1] == (
    'error: the page is served by aiohttp: pip install "i2vgen_jax[studio]".'
  )
