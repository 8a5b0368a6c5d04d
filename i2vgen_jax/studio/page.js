// The form asks for videos; a card for each shows how far it is, and then the videos.
'use strict';

const form = document.getElementById('form');
const error = document.getElementById('error');
const results = document.getElementById('results');
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error('The server does not answer: is it still running?');
  }
  const text = await response.text();
  let answer = {};
  try {
    answer = JSON.parse(text);
  } catch { /* Not from the page's own routes. */ }
  if (!response.ok) {
    const failed = new Error(answer.error || `The server answered ${response.status}.`);
    failed.status = response.status;
    throw failed;
  }
  return answer;
}

// The form.

function complain(text) {
  error.textContent = text;
  error.hidden = !text;
  if (text) error.focus();
}

let sending = false;  // Its button is not disabled meanwhile: it would lose the focus.
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  if (sending) return;
  complain('');
  const data = new FormData(form);
  const compared = [...form.elements].some((e) => e.name.startsWith('other_') && e.value);
  if (compared && document.getElementById('comparing').open) data.set('compare', '1');
  sending = true;
  try {
    const job = await ask('/videos', { method: 'POST', body: data });
    document.getElementById('none')?.remove();
    new Card(job, data.get('prompt') || 'A video').follow(job);
  } catch (failed) {
    complain(failed.message);
  } finally {
    sending = false;
  }
});

form.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

document.getElementById('reseed').addEventListener('click', () => {
  form.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
});

document.getElementById('aspect').addEventListener('change', (event) => {
  const [width, height] = event.target.value.split('x');
  form.elements.width.value = width || '';
  form.elements.height.value = height || '';
});

for (const drop of document.querySelectorAll('.drop')) {
  const input = drop.querySelector('input');
  const chosen = drop.querySelector('img');
  input.addEventListener('change', () => {
    URL.revokeObjectURL(chosen.src);
    const file = input.files[0];
    chosen.hidden = !file;
    if (file) chosen.src = URL.createObjectURL(file);
  });
  chosen.addEventListener('error', () => { chosen.hidden = true; });  // The server reads more kinds.
  drop.addEventListener('dragover', (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
  drop.addEventListener('dragleave', () => drop.classList.remove('over'));
  drop.addEventListener('drop', (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    take(input, event.dataTransfer.files);
  });
}

document.addEventListener('paste', (event) => take(form.elements.image, event.clipboardData.files));

function take(input, files) {
  if (!files.length) return;
  const one = new DataTransfer();
  one.items.add(files[0]);
  input.files = one.files;
  input.dispatchEvent(new Event('change'));
}

// A card for each job.

class Card {
  constructor(job, title) {
    const copy = document.getElementById('job').content.cloneNode(true);
    this.card = copy.querySelector('article');
    this.state = this.find('.state');
    this.find('h2').textContent = title;
    this.path = `/videos/${job.name}`;
    this.figures = job.videos.map((video, index) => this.figure(video, index, job.videos.length));
    this.find('.cancel').addEventListener('click', () => this.cancel());
    this.find('.play').addEventListener('click', () => this.toggle());
    results.prepend(copy);
    this.card.scrollIntoView({ block: 'nearest' });
  }

  find(selector) { return this.card.querySelector(selector); }

  figure(video, index, number) {
    const copy = document.getElementById('video').content.cloneNode(true);
    const figure = copy.querySelector('figure');
    figure.querySelector('.notes').textContent = video.notes.join(' ');
    figure.querySelector('code').textContent = video.command;
    figure.label = number > 1 ? ['First', 'Second'][index] : 'Video';
    figure.querySelector('video').setAttribute('aria-label', figure.label);
    figure.querySelector('.copy').addEventListener('click', (event) => copyText(video.command, event.target));
    this.find('.videos').append(copy);
    return figure;
  }

  async follow(job) {
    this.show(job);
    let fails = 0;
    while (!['done', 'failed', 'cancelled'].includes(job.state)) {
      try {
        job = await ask(`${this.path}?after=${job.version}`);
        fails = 0;
        this.show(job);
      } catch (failed) {
        this.state.textContent = failed.message;
        if (failed.status || ++fails > 60) return this.end('failed');
        await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
    this.end(job.state);
  }

  show(job) {
    this.state.textContent = words(job);
    const parts = job.videos.map((v) => (v.secs !== null ? 1 : v.total ? (Math.max(v.stage - 1, 0) + v.done / v.total) / v.stages : 0));
    this.find('progress').value = parts.reduce((sum, part) => sum + part, 0) / parts.length;
    job.videos.forEach((video, index) => this.update(this.figures[index], video, `${this.path}/${index}/`));
  }

  update(figure, video, path) {
    const look = figure.querySelector('.look');
    const player = figure.querySelector('video');
    if (video.secs === null) {
      if (!still && video.previews && look.dataset.number !== String(video.previews)) {
        look.dataset.number = video.previews;
        look.src = `${path}preview?${video.previews}`;
        look.hidden = false;
      }
    } else if (!player.src) {
      for (const kind of ['mp4', 'gif']) figure.querySelector(`.${kind}`).href = `${path}video.${kind}`;
      figure.querySelector('.links').hidden = false;
      const [frames, height, width] = video.size;
      figure.querySelector('.about').textContent = `${figure.label}: ${frames} frames of ${width}x${height}, in ${video.secs.toFixed(1)} s`;
      player.src = `${path}video.mp4`;
      player.hidden = false;
      look.hidden = true;
    }
  }

  end(state) {
    this.card.classList.add(state);
    this.find('progress').hidden = true;
    const cancel = this.find('.cancel');
    const focused = cancel === document.activeElement;
    cancel.hidden = true;
    for (const look of this.card.querySelectorAll('.look')) look.hidden = true;
    if (state === 'done') {
      this.find('.play').hidden = false;
      if (!still) this.toggle();
      else this.find('.play').textContent = 'Play';
    }
    if (focused) (state === 'done' ? this.find('.play') : results).focus();
  }

  async cancel() {
    try {
      await ask(this.path, { method: 'DELETE' });
    } catch (failed) {
      this.state.textContent = failed.message;
    }
  }

  // Plays or pauses all of its videos, in step.
  toggle() {
    const players = [...this.card.querySelectorAll('video')];
    const start = players[0].paused;
    for (const player of players) {
      if (start) {
        player.currentTime = 0;
        player.play();
      } else {
        player.pause();
      }
    }
    this.find('.play').textContent = start ? 'Pause' : 'Play';
  }
}

function words(job) {
  if (job.state === 'waiting') return job.ahead ? `Waiting: ${job.ahead} before it.` : 'Waiting.';
  if (job.state === 'failed') return job.error;
  if (job.state !== 'making') return { done: 'Done.', cancelled: 'Cancelled.' }[job.state];
  const index = job.videos.findIndex((video) => video.secs === null);
  const video = job.videos[Math.max(index, 0)];
  const which = job.videos.length > 1 ? `Video ${index + 1} of 2. ` : '';
  const stage = video.stages > 1 ? `Stage ${Math.max(video.stage, 1)} of ${video.stages}. ` : '';
  if (!video.total) return `${which}Starting; what is new of its size is compiled.`;
  return `${which}${stage}Step ${video.done} of ${video.total}.`;
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // Without HTTPS, but for this machine, there is no clipboard.
    const range = document.createRange();
    range.selectNodeContents(button.parentElement.querySelector('code'));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand('copy');
  }
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = 'Copy'; }, 2000);
}
