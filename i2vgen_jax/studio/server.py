"""The page and what it asks: JSON and files over HTTP, all below one address.

POST /videos takes the form and answers with a job's name, under which everything else is: GET
/videos/NAME its state, as soon as that is newer than ?after; DELETE cancels it; its files are
/videos/NAME/0/video.mp4, video.gif and preview. Errors are JSON with the key `error`.
"""

import asyncio
import pathlib
import shutil
import socket
import time
from typing import Any

import jinja2
from absl import logging
from aiohttp import web

from data_pipelines import user_errors
from i2vgen_jax.diffusion import sampler as samplers
from i2vgen_jax.studio import access
from i2vgen_jax.studio import asked as asked_lib
from i2vgen_jax.studio import jobs as jobs_lib
from i2vgen_jax.studio import maker as maker_lib
from i2vgen_jax.studio import runs as runs_lib

HERE = pathlib.Path(__file__).parent
ASSETS = {'page.css': 'text/css', 'page.js': 'text/javascript'}
FILES = {'video.mp4': 'video/mp4', 'video.gif': 'image/gif'}
MAX_REQUEST = 2 * asked_lib.MAX_BYTES + 100_000
WAIT_SECS, TICK_SECS = 20.0, 0.05  # Of who waits for news.
SHUTDOWN_SECS = 1.0  # For requests that are answered when a signal comes.


class Server:
  """Answers requests.

  Args:
    runs: that there are.
    jobs: the queue.
    folder: for the files of jobs.
  """

  def __init__(self, runs: runs_lib.Runs, jobs: jobs_lib.Jobs, folder: pathlib.Path):
    self._runs, self._jobs, self._folder = runs, jobs, folder
    loader = jinja2.FileSystemLoader(HERE)
    page = jinja2.Environment(loader=loader, autoescape=True).get_template('page.html')
    self._page = page.render(describe(runs))

  def routes(self) -> list[web.RouteDef]:
    """All that there is."""
    return [
      web.get('/', self.page),
      web.get('/{name:page\\.(?:css|js)}', self.asset),
      web.post('/videos', self.ask),
      web.get('/videos/{job}', self.state),
      web.delete('/videos/{job}', self.cancel),
      web.get('/videos/{job}/{number:[01]}/preview', self.preview),
      web.get('/videos/{job}/{number:[01]}/{name:video\\.(?:mp4|gif)}', self.file),
    ]

  async def page(self, request: web.Request) -> web.Response:
    """The page."""
    return web.Response(text=self._page, content_type='text/html')

  async def asset(self, request: web.Request) -> web.Response:
    """Its style or its script."""
    name = request.match_info['name']
    return web.Response(text=(HERE / name).read_text('utf-8'), content_type=ASSETS[name])

  async def ask(self, request: web.Request) -> web.Response:
    """Puts the videos of a form into the queue, or says what is to be changed."""
    name = jobs_lib.new_name()
    folder = self._folder / name
    try:
      fields, uploads = await read_form(request)
      self._jobs.check_room()
      folder.mkdir()
      asked = await asyncio.to_thread(asked_lib.read, fields, uploads, self._runs, folder)
      videos = [jobs_lib.Video(one, folder / str(i)) for i, one in enumerate(asked)]
      for video in videos:
        video.folder.mkdir()
      job = jobs_lib.Job(videos, name)
      self._jobs.add(job)
    except Exception as error:
      shutil.rmtree(folder, ignore_errors=True)
      text = user_errors.message(error)
      if text is None:
        raise
      return web.json_response({'error': text}, status=422)
    return web.json_response(self._describe(job), status=201)

  async def state(self, request: web.Request) -> web.Response:
    """The state of a job, once it differs from the one that is known."""
    job, until = self._job(request), time.monotonic() + WAIT_SECS
    while request.query.get('after') == self._version(job) and time.monotonic() < until:
      await asyncio.sleep(TICK_SECS)
    return web.json_response(self._describe(job))

  async def cancel(self, request: web.Request) -> web.Response:
    """Cancels a job."""
    job = self._job(request)
    self._jobs.cancel(job)
    return web.json_response(self._describe(job))

  async def preview(self, request: web.Request) -> web.Response:
    """The newest look at a video that is being made."""
    picture = self._video(request).preview
    if picture is None:
      raise web.HTTPNotFound
    return web.Response(body=picture, content_type='image/webp')

  async def file(self, request: web.Request) -> web.StreamResponse:
    """A video that was made."""
    name, video = request.match_info['name'], self._video(request)
    if video.secs is None:
      raise web.HTTPNotFound
    return web.FileResponse(video.folder / name, headers={'Content-Type': FILES[name]})

  def _job(self, request: web.Request) -> jobs_lib.Job:
    job = self._jobs.find(request.match_info['job'])
    if job is None:
      raise web.HTTPNotFound(
        text='{"error": "The server knows this video no more."}', content_type='application/json'
      )
    return job

  def _video(self, request: web.Request) -> jobs_lib.Video:
    videos, number = self._job(request).videos, int(request.match_info['number'])
    if number >= len(videos):
      raise web.HTTPNotFound
    return videos[number]

  def _version(self, job: jobs_lib.Job) -> str:
    return f'{job.version}.{self._jobs.ahead(job)}'

  def _describe(self, job: jobs_lib.Job) -> dict[str, Any]:
    return dict(
      name=job.name,
      state=job.state,
      version=self._version(job),
      error=job.error,
      ahead=self._jobs.ahead(job),
      videos=[
        dict(
          command=video.asked.command, notes=video.asked.notes, stage=video.stage,
          stages=video.stages, done=video.done, total=video.total, previews=video.num_previews,
          secs=video.secs, size=video.size,
        )
        for video in job.videos
      ],
    )  # fmt: skip


async def read_form(
  request: web.Request,
) -> tuple[dict[str, str], dict[str, asked_lib.Upload]]:
  """(texts, files) of a form, by name; raises ValueError if it is larger than any should be."""
  try:
    form = await request.post()
  except web.HTTPRequestEntityTooLarge as error:
    raise ValueError(
      f'the form is too large: a picture may have {asked_lib.MAX_BYTES:,} bytes.'
    ) from error
  fields, uploads = {}, {}
  for name, value in form.items():
    if isinstance(value, str):
      fields[name] = value
    elif isinstance(value, web.FileField) and value.filename:
      uploads[name] = asked_lib.Upload(asked_lib.file_name(value.filename), value.file.read())
  return fields, uploads


def describe(runs: runs_lib.Runs) -> dict[str, Any]:
  """What the page shows controls for."""
  bucket, settings = runs.bucket(), runs.settings()
  return dict(
    runs=[(pathlib.PurePath(workdir).name, workdir) for workdir in runs.workdirs],
    steps=runs.steps(0)[::-1],
    several=len(runs.workdirs) > 1 or len(runs.steps(0)) > 1,
    refines=bool(runs.refine_workdir),
    reads_captions=runs.reads_captions,
    controls=runs.controls(0),
    bucket=bucket,
    sizes=runs.sizes(),
    settings=settings,
    samplers=list(samplers.KINDS),
    negative_prompt=runs.first.config.negative_prompt,
    max_megabytes=asked_lib.MAX_BYTES // 1_000_000,
  )


def make_app(
  runs: runs_lib.Runs, maker: maker_lib.Maker, token: str, folder: pathlib.Path
) -> web.Application:
  """The server, whose queue ends with it.

  Args:
    runs: that there are.
    maker: of videos.
    token: that visitors must know; '' for none.
    folder: for the files of jobs.
  """
  forget = lambda job: shutil.rmtree(folder / job.name, ignore_errors=True)  # noqa: E731
  jobs = jobs_lib.Jobs(maker, forget)
  app = web.Application(client_max_size=MAX_REQUEST, middlewares=[access.middleware(token)])
  app.add_routes(Server(runs, jobs, folder).routes())

  async def stop(app: web.Application) -> None:
    await asyncio.to_thread(jobs.stop)

  app.on_cleanup.append(stop)
  return app


def serve(
  runs: runs_lib.Runs,
  maker: maker_lib.Maker,
  listening: socket.socket,
  host: str,
  token: str,
  folder: pathlib.Path,
) -> None:
  """Serves the page until SIGINT or SIGTERM.

  Args:
    runs: that there are.
    maker: of videos.
    listening: the socket.
    host: that it listens on, as it was given.
    token: that visitors must know; '' for none.
    folder: for the files of jobs.
  """
  app = make_app(runs, maker, token, folder)
  name = socket.gethostname() if host in ('0.0.0.0', '::') else host
  name = f'[{name}]' if ':' in name else name
  address = f'http://{name}:{listening.getsockname()[1]}/'
  logging.info('the page is ready')
  # Printed and not logged: logs are kept, and the token is for visitors alone.
  shown = lambda text: print(f'{address}?token={token}' if token else address, flush=True)  # noqa: E731
  web.run_app(app, sock=listening, print=shown, access_log=None, shutdown_timeout=SHUTDOWN_SECS)
