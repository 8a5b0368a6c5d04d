"""The queue: in the order of asking, one at a time; what is cancelled ends before its next step."""

import threading
import time

import pytest

from i2vgen_jax.studio import jobs as jobs_lib


class Worker:
  """Makes a video in steps, each of which a test allows."""

  def __init__(self):
    self.steps, self.made = threading.Semaphore(0), []

  def __call__(self, video, changed):
    self.made.append(video)
    for _ in range(3):
      self.steps.acquire()
      video.done += 1
      changed()


@pytest.fixture
def queue():
  """(worker, jobs)."""
  worker = Worker()
  jobs = jobs_lib.Jobs(worker)
  yield worker, jobs
  worker.steps.release(1000)
  jobs.stop()


def job(number=1):
  videos = [jobs_lib.Video(asked=None, folder=None) for _ in range(number)]
  return jobs_lib.Job(videos, jobs_lib.new_name())


def wait(claim):
  until = time.monotonic() + 10
  while not claim():
    assert time.monotonic() < until
    time.sleep(0.005)


def test_jobs_are_made_in_their_order_and_know_how_many_are_before_them(queue):
  worker, jobs = queue
  first, second, third = job(2), job(), job()
  for each in (first, second, third):
    jobs.add(each)
  wait(lambda: first.state == 'making')
  assert [jobs.ahead(each) for each in (first, second, third)] == [0, 1, 2]
  worker.steps.release(6)
  wait(lambda: second.state == 'making')
  assert first.state == 'done' and [video.done for video in first.videos] == [3, 3]
  assert jobs.ahead(third) == 1 and third.state == 'waiting'
  worker.steps.release(6)
  wait(lambda: third.state == 'done')
  assert worker.made == [*first.videos, *second.videos, *third.videos]
  assert jobs.find(third.name) is third and jobs.find('another') is None


def test_a_cancelled_job_ends_within_a_step_and_one_that_waits_at_once(queue):
  worker, jobs = queue
  first, second, third = job(), job(), job()
  for each in (first, second, third):
    jobs.add(each)
  wait(lambda: first.state == 'making')
  jobs.cancel(second)
  assert second.state == 'cancelled' and jobs.ahead(third) == 1
  worker.steps.release()
  wait(lambda: first.videos[0].done == 1)
  jobs.cancel(first)
  worker.steps.release()
  wait(lambda: first.state == 'cancelled')
  assert first.videos[0].done == 2
  worker.steps.release(3)
  wait(lambda: third.state == 'done')
  assert second.videos[0] not in worker.made


def test_a_job_that_nobody_asks_about_is_cancelled(queue, monkeypatch):
  worker, jobs = queue
  left = job()
  jobs.add(left)
  wait(lambda: left.state == 'making')
  monkeypatch.setattr(jobs_lib, 'ABANDONED_SECS', 60.0)
  left.seen -= 61
  worker.steps.release()
  wait(lambda: left.state == 'cancelled')


def test_an_error_is_of_its_job_alone_and_a_bug_shows_no_traceback(caplog):
  def make(video, changed):
    raise video.asked

  jobs = jobs_lib.Jobs(make)
  broken = job()
  broken.videos[0].asked = TypeError('secret')
  jobs.add(broken)
  wait(lambda: broken.ended)
  assert broken.state == 'failed' and broken.error == jobs_lib.BUG
  assert 'secret' in caplog.text
  jobs.stop()


def test_a_queue_has_an_end_and_old_jobs_are_forgotten(monkeypatch):
  monkeypatch.setattr(jobs_lib, 'MOST_WAITING', 2)
  monkeypatch.setattr(jobs_lib, 'MOST_KEPT', 1)
  worker, forgotten = Worker(), []
  jobs = jobs_lib.Jobs(worker, forgotten.append)
  first, *others = [job() for _ in range(3)]
  jobs.add(first)
  wait(lambda: first.state == 'making')
  for each in others:
    jobs.add(each)
  with pytest.raises(ValueError, match='2 requests are waiting: try again later'):
    jobs.add(job())
  worker.steps.release(9)
  wait(lambda: others[1].state == 'done')
  jobs.add(job())
  assert forgotten == [first, others[0]] and jobs.find(first.name) is None
  worker.steps.release(9)
  jobs.stop()
