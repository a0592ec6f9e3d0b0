// The live player (gr.HTML's js_on_load: element, trigger, props, server, watch). Messages and DOM events: cf_app/ui/player.py.
const root = element.querySelector(".cf-player");
const video = root.querySelector("video");
const view = new cf.PlayerView(root);
const seedField = root.querySelector(".cf-seed input");
const newSeed = () => Math.floor(Math.random() * 1e6);
seedField.value = newSeed();

let mode = "idle"; // idle, starting, playing, paused, stopped, failed
let run = null; // the `run` message
let nonce = null; // what the next run will answer to
let feed = null;
let film = { chunks: [], end: 0 }; // what exists: {chunk, start, end, prompt, color, seed}
let expected = 0; // number of the next message
let granted = 0;
let queued = 0;
let misses = 0; // requests in a row that failed
let change = null; // queued prompt: {prompt, color, chunk}
let refilling = false;
let fetching = -1; // old chunk that is being fetched again
let heard = 0; // when the last message came
let drySince = 0;

const running = () => mode === "starting" || mode === "playing" || mode === "paused";
const chunkSeconds = () => (run ? run.chunk_frames / run.fps_played : 1);

function setMode(next) {
  mode = next;
  view.mode(mode, film);
  cf.emit("mode", { mode });
}

function chunkAt(time) {
  let low = 0;
  let high = film.chunks.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (film.chunks[middle].start <= time + 1e-4) low = middle;
    else high = middle - 1;
  }
  return high < 0 ? -1 : low;
}

// Runs

function play(wish = {}) {
  const codec = cf.Feed.codec();
  if (!codec) {
    view.alert("This browser plays neither H.264 nor VP9 through Media Source Extensions. Try a current Chrome, Firefox, Edge or Safari.");
    return;
  }
  view.alert(null);
  if (wish.seed !== undefined) seedField.value = wish.seed;
  nonce = Math.random().toString(36).slice(2);
  video.pause();
  film = { chunks: [], end: 0 };
  change = null;
  queued = 0;
  feed = new cf.Feed(video);
  heard = performance.now();
  view.track(film);
  view.next(null);
  view.caption(null);
  view.position(0, film, -1);
  run = null;
  setMode("starting");
  trigger("play", { prompt: wish.prompt ?? cf.prompt?.() ?? "", seed: seedField.value, timeline: wish.timeline, codec, nonce });
}

async function ask(name, request) {
  try {
    const answer = await server[name]({ run: run?.run, ...request });
    misses = 0;
    return answer;
  } catch {
    misses += 1;
    return { ok: false, error: "The server does not answer." };
  }
}

async function command(request) {
  const answer = run ? await ask("command", request) : { ok: false, error: "Nothing is playing yet. Press play first." };
  if (!answer.ok && !request.reply) view.alert(answer.error);
  request.reply?.(answer);
  return answer;
}

function toggle() {
  if (mode === "playing" || mode === "starting") {
    video.pause();
    setMode("paused");
    command({ kind: "pause" });
  } else if (mode === "paused") {
    setMode("playing");
    video.play().catch(() => {});
    command({ kind: "resume" });
  } else play();
}

function stop() {
  if (!running()) return;
  video.pause();
  setMode("stopped");
  view.waiting(false);
  change = null;
  view.next(null);
  command({ kind: "stop", reply: () => {} });
}

async function changePrompt({ prompt, reply }) {
  if (!running()) return play({ prompt });
  const answer = await command({ kind: "prompt", prompt, reply: reply || (() => {}) });
  if (!answer.ok) return view.alert(answer.error);
  view.alert(null);
  cf.learnColor(answer.prompt, answer.color);
  change = answer;
}

// Messages

const handle = {
  run(message) {
    run = message;
    expected = 1;
    granted = 0;
    cf.learnColor(message.prompt, message.color);
    cf.emit("run", message);
    if (mode === "paused") command({ kind: "pause" }); // asked for before the run had a name
    if (mode === "stopped") command({ kind: "stop" });
  },
  chunk(message) {
    const { b64, ...light } = message;
    const { chunk, start, end, prompt, color, seed } = message;
    film.chunks.push({ chunk, start, end, prompt, color, seed });
    film.end = end;
    queued = message.queued;
    cf.learnColor(prompt, color);
    if (mode !== "stopped") feed.push({ bytes: cf.bytes(b64), mime: message.mime, start, end });
    if (mode === "starting") {
      setMode("playing");
      video.play().catch((error) => {
        if (error.name === "NotAllowedError") toggle(); // needs another click: show it as a pause
      });
    } else view.mode(mode, film);
    view.track(film);
    view.timings(message);
    view.position(video.currentTime, film, chunkAt(video.currentTime));
    cf.emit("chunk", light);
  },
  applied(message) {
    if (message.kind === "prompt") cf.learnColor(message.prompt, message.color);
    if (message.kind === "prompt" && change) change = { ...change, ...message };
    cf.emit("applied", message);
  },
  state: (message) => cf.emit("state", message),
  failed(message) {
    view.alert(message.message);
    if (message.fatal) setMode("failed");
    cf.emit("failed", message);
  },
  ended(message) {
    if (message.reason === "closed" && running()) view.alert("This run was closed by the server. Press play to start a new one.");
    if (message.reason !== "finished" && running()) setMode("stopped");
    film.finished = true;
    cf.emit("ended", message);
  },
};

async function receive(message) {
  if (!message) return;
  if (message.type === "refused" && message.nonce === nonce) {
    nonce = null;
    setMode("idle");
    view.alert(message.message);
    cf.emit("refused", message);
    return;
  }
  if (message.type === "run" && message.nonce === nonce) {
    nonce = null;
    handle.run(message);
    heard = performance.now();
  } else if (run && message.run === run.run && message.seq >= expected) {
    heard = performance.now();
    if (message.seq > expected) return refill();
    expected += 1;
    handle[message.type](message);
  } else if (nonce && message.type !== "refused" && message.run !== run?.run && message.seq > 0) {
    lostOpening(message.run);
  }
}

/** Values were skipped: a hidden tab gets only the newest. Fetch what is missing, in order. */
async function refill() {
  if (refilling || !run) return;
  refilling = true;
  const asked = run.run;
  const answer = await ask("fetch", { seq: expected });
  refilling = false;
  if (!answer.ok) return lost(answer.error);
  for (const message of answer.messages) if (asked === run?.run) receive(message);
}

async function lostOpening(token) {
  const answer = await server.fetch({ run: token, seq: 0 }).catch(() => ({ ok: false }));
  if (answer.ok) answer.messages.forEach(receive);
}

function lost(reason) {
  if (!running()) return;
  video.pause();
  setMode("failed");
  view.alert(reason || "The connection to the server was lost. Press play to start a new run.");
}

// Pace: called ten times a second, and for every picture

function tick() {
  if (!run || !feed || mode === "idle") return;
  const ahead = feed.ahead();
  const last = film.chunks.length;
  if (mode === "playing") {
    video.playbackRate = ahead < 0.25 && !film.finished ? 0.9 : ahead > 2.5 * chunkSeconds() ? 1.05 : 1;
    const dry = ahead < 0.02 && !film.finished;
    drySince = dry ? drySince || performance.now() : 0;
    view.waiting(dry && performance.now() - drySince > 500);
    if (film.finished && video.currentTime > film.end - 0.1) {
      video.pause();
      setMode("stopped");
    }
    if (film.end - video.currentTime < props.setup.cushion) grant(last + 1);
    if (performance.now() - heard > 4000 && film.end - video.currentTime < 0.1 && !film.finished) {
      heard = performance.now();
      refill();
    }
  }
  view.buffer(Math.max(0, film.end - video.currentTime), running() ? queued : 0, chunkSeconds());
  recall(video.currentTime + ahead + 0.01);
  const behind = film.end - video.currentTime;
  view.live(running() && behind > 3.5 * chunkSeconds() ? behind : 0);
  if (change) {
    const at = film.chunks[change.chunk]?.start ?? film.end + (change.chunk - last) * chunkSeconds();
    const seconds = at - video.currentTime;
    if (seconds <= 0) change = null;
    view.next(change && { ...change, seconds });
  }
}

async function grant(upto) {
  if (upto <= granted) return;
  granted = upto;
  const asked = run.run;
  const answer = await ask("credit", { upto });
  if (asked !== run?.run) return;
  if (answer.ok) queued = answer.queued;
  else if (misses === 0) lost(answer.error);
  else {
    granted = upto - 1; // try again at the next tick
    if (misses > 20) lost();
  }
}

/** Fetches the chunk that holds `time` again, when it exists and the browser has dropped it. */
async function recall(time) {
  const chunk = chunkAt(time);
  if (fetching >= 0 || chunk < 0 || time >= film.end || feed.awaits(time) || feed.endAround(time) !== null) return;
  fetching = chunk;
  const answer = await ask("chunk", { chunk });
  fetching = -1;
  const place = film.chunks[chunk];
  if (answer.ok && place) feed.push({ bytes: cf.bytes(answer.b64), mime: feed.buffer.getMime?.() ?? "", start: place.start, end: place.end });
}

function seek(time) {
  if (!film.chunks.length) return;
  video.currentTime = Math.min(Math.max(0, time), film.end - 0.5 / run.fps_played);
  tick();
  shown(video.currentTime);
}

function step(pictures) {
  if (!film.chunks.length) return;
  if (mode === "playing") toggle();
  const picture = Math.floor(video.currentTime * run.fps_played + 1e-3) + pictures;
  seek((picture + 0.5) / run.fps_played);
}

function shown(time) {
  const index = chunkAt(time);
  view.position(time, film, index);
  if (index < 0) return;
  const chunk = film.chunks[index];
  view.caption(chunk);
  cf.emit("shown", {
    run: run.run, chunk: chunk.chunk, time, generated: film.end, playing: mode === "playing",
    frame: Math.floor((time - chunk.start) * run.fps_played + 1e-3), live: film.end - time < 3.5 * chunkSeconds(),
  });
}

if (video.requestVideoFrameCallback) {
  const onPicture = (_, { mediaTime }) => {
    shown(mediaTime);
    video.requestVideoFrameCallback(onPicture);
  };
  video.requestVideoFrameCallback(onPicture);
} else video.addEventListener("timeupdate", () => shown(video.currentTime));
video.addEventListener("timeupdate", tick);
setInterval(tick, 100);

// Controls

const nameOf = () => `context-forcing-seed${run.seed}-${video.currentTime.toFixed(2)}s`;
const actions = {
  toggle, stop,
  back: () => step(-1),
  forth: () => step(1),
  live: () => seek(film.end - Math.min(0.4, chunkSeconds())),
  dismiss: () => view.alert(null),
  dice() {
    seedField.value = newSeed();
    seedField.dispatchEvent(new Event("change"));
  },
  frame() {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => cf.download(blob, `${nameOf()}.png`), "image/png");
  },
  async save() {
    view.enable("save", false);
    const answer = await ask("export", { upto: Math.max(0, chunkAt(video.currentTime)) });
    view.enable("save", true);
    if (!answer.ok) return view.alert(answer.error);
    cf.download(`${window.gradio_config?.root ?? ""}/gradio_api/file=${answer.path}`, answer.name);
  },
  full() {
    const screen = root.querySelector(".cf-screen");
    if (document.fullscreenElement) document.exitFullscreen();
    else if (screen.requestFullscreen) screen.requestFullscreen();
    else video.webkitEnterFullscreen?.();
  },
};
root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do]();
});
video.addEventListener("click", () => film.chunks.length && toggle());
seedField.addEventListener("change", async () => {
  if (!running() || !run) return;
  const answer = await command({ kind: "seed", seed: seedField.value });
  if (!answer.ok) seedField.value = film.chunks[film.chunks.length - 1]?.seed ?? run.seed;
});
seedField.addEventListener("keydown", (event) => event.key === "Enter" && seedField.blur());

const scrub = root.querySelector(".cf-scrub");
const scrubTo = (event) => {
  const box = scrub.getBoundingClientRect();
  seek((film.end * (event.clientX - box.left)) / box.width);
};
scrub.addEventListener("pointerdown", (event) => {
  scrub.setPointerCapture(event.pointerId);
  scrubTo(event);
});
scrub.addEventListener("pointermove", (event) => scrub.hasPointerCapture(event.pointerId) && scrubTo(event));
scrub.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -8, PageDown: 8 }[event.key];
  if (by) seek(video.currentTime + by * chunkSeconds());
  if (event.key === "Home") seek(0);
  if (event.key === "End") actions.live();
  if (by || event.key === "Home" || event.key === "End") event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (cf.typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target.closest?.("button, a, summary, [role=button]");
  const action = { " ": onButton ? null : "toggle", ArrowLeft: "back", ArrowRight: "forth", End: "live", f: "full" }[event.key];
  if (!action) return;
  event.preventDefault();
  if (action === "toggle" || action === "full" || film.chunks.length) actions[action]();
});

cf.on("seek", ({ time, chunk }) => seek(time ?? film.chunks[chunk]?.start ?? 0));
cf.on("live", actions.live);
cf.on("play", play);
cf.on("command", command);
cf.on("prompt", changePrompt);

watch("value", () => receive(props.value));
setMode("idle");
