// The live player, part two: what is on screen, how far the film may run ahead of it, and what the buttons do.

// Pace: ten times a second, and whenever the video's clock moves; chunks are asked for twice as often, to lose no time

function tick() {
  if (!run || mode === "idle") return;
  if (arriving && running() && feed.idle) arrive();
  const ahead = feed.ahead();
  const unseen = Math.max(0, film.end - video.currentTime);
  if (live()) pace(ahead, unseen);
  recall(video.currentTime + ahead + 0.01);
  view.buffer(unseen, running() ? queued : 0, film.chunkSeconds);
  view.live(running() && mode !== "starting" && unseen > 3.5 * film.chunkSeconds ? unseen : 0);
  if (change) {
    const missing = Math.max(0, change.chunk - film.length); // chunks that have to be made first
    const seconds = missing ? unseen + missing * Math.max(film.chunkSeconds, perChunk) : film.startOf(change.chunk) - video.currentTime;
    if (seconds <= 0) change = null;
    view.next(change && { ...change, seconds });
  }
}

function pace(ahead, unseen) {
  const now = performance.now();
  const dry = ahead < 0.02 && !film.finished;
  drySince = dry ? drySince || now : 0;
  view.waiting(dry && now - drySince > 600);
  video.playbackRate = ahead < 0.25 && !film.finished ? 0.9 : ahead > 3 * film.chunkSeconds ? 1.05 : 1;
  if (film.finished && unseen < 0.1) return end("stopped");
  if (halted && (dry || !film.length)) return end("paused");
  if (dry && now - heard > SILENCE) {
    heard = now;
    inbox.fill();
  }
}

async function grant() {
  if (!run || !live() || film.finished) return;
  const upto = due.wants(film, Math.max(0, film.end - video.currentTime), queued ? 0 : perChunk + ON_ITS_WAY);
  if (upto === null) return;
  const mine = run;
  const answer = await ask("credit", { upto });
  if (mine !== run) return;
  if (answer.ok) queued = answer.queued;
  else if (!answer.unreachable) lost(answer.error);
  else if (misses > PATIENCE) lost();
  else due.again();
}

/** Fetches the chunk that holds `time` again, when it exists and the browser has dropped it. */
async function recall(time) {
  if (recalling || time >= film.end || !feed.buffer || feed.awaits(time) || feed.endAround(time) !== null) return;
  recalling = true;
  const [mine, chunk] = [film, film.at(time)];
  const answer = await ask("chunk", { chunk });
  recalling = false;
  if (answer.ok && mine === film) feed.push({ bytes: cf.bytes(answer.b64), ...film.chunks[chunk] });
}

// The picture

function seek(time) {
  if (!film.length) return;
  video.currentTime = film.clamp(time);
  tick();
  shown(video.currentTime);
}

function step(pictures) {
  if (!film.length) return;
  if (mode === "playing") toggle();
  seek(film.picture(film.pictureAt(video.currentTime) + pictures));
}

function shown(time) {
  const index = film.at(time);
  view.position(time, film, index);
  if (index < 0) return;
  const chunk = film.chunks[index];
  film.shownTo = Math.max(film.shownTo, index);
  view.caption(chunk);
  cf.emit("shown", {
    run: run.run, chunk: chunk.chunk, time, generated: film.end, playing: mode === "playing",
    frame: film.pictureAt(time) - film.pictureAt(chunk.start), live: film.end - time < 3.5 * film.chunkSeconds,
  });
}

const onPicture = (_, { mediaTime }) => {
  shown(mediaTime);
  video.requestVideoFrameCallback(onPicture);
};
if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(onPicture);
else video.addEventListener("timeupdate", () => shown(video.currentTime));
video.addEventListener("timeupdate", tick);
setInterval(tick, 100);
setInterval(grant, 50);

// Controls

const actions = {
  stop,
  toggle,
  back: () => step(-1),
  forth: () => step(1),
  start: () => seek(0),
  live: () => seek(film.end - Math.min(0.4, film.chunkSeconds)),
  seekTo: (share) => seek(film.end * share),
  seekBy: (chunks) => seek(video.currentTime + chunks * film.chunkSeconds),
  dismiss: () => view.alert(null),
  full: () => view.fullScreen(),
  dice() {
    seedField.value = newSeed();
    actions.seed(seedField.value);
  },
  async seed(text) {
    if (!running() || !run) return;
    const answer = await command({ kind: "seed", seed: text });
    if (!answer.ok) seedField.value = film.chunks[film.length - 1]?.seed ?? run.seed;
  },
  frame() {
    if (film.length) view.saveFrame(`context-forcing-seed${run.seed}-${video.currentTime.toFixed(2)}s.png`);
  },
  async save() {
    view.busy("save", true);
    const answer = await ask("export", { upto: Math.max(0, film.shownTo) });
    view.busy("save", false);
    if (answer.ok) cf.download(`${window.gradio_config?.root ?? ""}/gradio_api/file=${encodeURI(answer.path)}`, answer.name);
    else view.alert(answer.error);
  },
};
cf.wireControls(root, actions);

cf.on("seek", ({ time, chunk }) => seek(time ?? film.startOf(chunk)));
cf.on("live", actions.live);
cf.on("play", play);
cf.on("branch", ({ chunk, timeline }) => run && play({ timeline, back: chunk, seed: run.seed, run: run.run }));
cf.on("command", command);
cf.on("prompt", changePrompt);
watch("value", () => inbox.receive(props.value));
setMode("idle");
