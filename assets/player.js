// The live player, part one: runs, requests, messages (gr.HTML's js_on_load: element, trigger, props, server, watch).
// Messages and DOM events are described in cf_app/ui/player.py.
const root = element.querySelector(".cf-player");
const video = root.querySelector("video");
const view = new cf.PlayerView(root);
const seedField = root.querySelector(".cf-seed input");
const newSeed = () => Math.floor(Math.random() * 1e6);
seedField.value = newSeed();
video.muted = true;

const NO_CODEC = "This browser plays neither H.264 nor VP9 through Media Source Extensions. Try a current Chrome, Edge, Firefox or Safari.";
const LOST = "The connection to the server was lost. Press play to start a new run.";
const MADE_ROOM = {
  turn: "Your turn is over: others are waiting. Press play to stand in line again.",
  budget: "You have played as long as a visitor may for now. Come back later, or duplicate this Space.",
};
const PATIENCE = 20; // requests in a row that may fail
const ON_ITS_WAY = 0.1; // seconds for encoding and sending a chunk, until the first one has shown how long it takes
const SILENCE = 4000; // ms without a message, with nothing left to play, before the player asks

let mode = "idle"; // idle, starting, playing, paused, stopped, failed
let run = null; // the `run` message
let feed = null;
let film = new cf.Film();
let due = new cf.Pace(0);
let queued = 0; // chunks that wait at the worker
let perChunk = 0; // seconds that making a chunk takes
let misses = 0; // requests in a row that failed
let change = null; // the prompt that has been sent and is not on screen yet: {prompt, color, chunk}
let begins; // what the film begins with, if not with noise
let back = 0; // a branch: the chunk that it waits before, and is shown from
let arriving = false; // all of what comes before the branch has come
let recalling = false;
let queuing = false; // all places are taken, and the server tells how many are before this tab
let halted = false; // the server has paused and nobody here has asked it to go on since
let turns = []; // "pause" and "resume" of ours that the server has not applied yet, oldest first
let heard = 0; // when the last message came
let drySince = 0;

const live = () => mode === "playing" || (mode === "starting" && halted);
const running = () => mode === "starting" || mode === "playing" || mode === "paused";

function setMode(next) {
  mode = next;
  view.mode(mode, film);
  cf.emit("mode", { mode });
}

// Requests

async function ask(name, request) {
  try {
    const answer = await server[name]({ run: run?.run, ...request });
    misses = 0;
    return answer;
  } catch {
    misses += 1;
    return { ok: false, unreachable: true, error: "The server does not answer." };
  }
}

/** One command after the other: what is sent first takes effect first. */
let line = Promise.resolve();
async function command({ reply, ...request }) {
  const mine = run;
  if (mine) line = line.then(() => ask("command", { ...request, run: mine.run }));
  const answer = mine ? await line : { ok: false, error: "Nothing is playing yet. Press play first." };
  if (reply) reply(answer);
  else if (!answer.ok) view.alert(answer.error);
  return answer;
}

/** Tells the server to pause or resume. What it said before it knew of that does not count any more. */
async function steer(kind) {
  if (!run) return;
  const mine = turns;
  mine.push(kind);
  const answer = await command({ kind });
  if (!answer.ok && mine.includes(kind)) mine.splice(mine.lastIndexOf(kind), 1);
}

function play(wish = {}) {
  const codec = cf.Feed.codec();
  if (!codec) return view.alert(NO_CODEC);
  const nonce = Math.random().toString(36).slice(2);
  run = null;
  queuing = false;
  inbox.expect(nonce);
  video.pause();
  view.hold(film);
  film = new cf.Film();
  feed = new cf.Feed(video);
  change = null;
  back = wish.back ?? 0;
  arriving = false;
  queued = 0;
  halted = false;
  turns = [];
  heard = performance.now();
  if (wish.seed !== undefined) seedField.value = wish.seed;
  const timeline = wish.timeline ?? (wish.prompt === undefined ? cf.story?.() : undefined); // the timeline editor has one
  view.clear(film);
  setMode("starting");
  const prompt = wish.prompt ?? cf.prompt?.() ?? "";
  if (!back) begins = cf.start?.(); // the prompt box may have a picture; a branch begins as its film did
  const start = begins;
  const branch = back ? { run: wish.run, chunk: back } : undefined;
  trigger("play", { prompt, seed: seedField.value, timeline, start, codec, nonce, branch });
}

function toggle() {
  due.rest();
  if (mode === "playing" || mode === "starting") {
    video.pause();
    view.waiting(false);
    setMode("paused");
    steer("pause");
  } else if (mode === "paused") {
    halted = false;
    view.alert(null);
    const there = film.length > 0 && film.length >= back;
    setMode(there ? "playing" : "starting");
    if (there) video.play().catch(() => {});
    steer("resume");
  } else play();
}

function stop() {
  if (!running()) return;
  video.pause();
  view.waiting(false);
  view.next((change = null));
  setMode("stopped");
  if (run) command({ kind: "stop", reply: () => {} });
  else if (queuing) leave();
}

/** All that comes before the branch can be shown again. */
function arrive() {
  arriving = false;
  if (mode === "paused") steer("resume"); // on the way; the server has to come to the marker too
  setMode("paused");
  seek(film.end);
  view.waiting(true, `Branch at chunk ${back}: change the prompt, the seed or the plan, then play on.`);
}

function leave() {
  ask("leave", { nonce: inbox.nonce });
  queuing = false;
  view.queue(null);
  setMode("idle");
}

async function changePrompt({ prompt, reply = () => {} }) {
  if (!running()) return play({ prompt });
  const answer = await command({ kind: "prompt", prompt, reply });
  if (!answer.ok) return;
  view.alert(null);
  cf.learnColor(answer.prompt, answer.color);
  change = answer;
}

// Messages

const handle = {
  run(message) {
    run = message;
    queuing = false;
    view.queue(null);
    due = new cf.Pace(props.setup.cushion, Math.max(message.granted, back));
    if (back) ask("credit", { upto: back });
    film.fps = message.fps_played;
    film.chunkSeconds = message.chunk_frames / message.fps_played;
    cf.learnColor(message.prompt, message.color);
    cf.emit("run", message);
    if (mode === "paused") steer("pause"); // asked for before the run had a name
    if (mode === "stopped") command({ kind: "stop", reply: () => {} });
  },
  chunk(message) {
    const { b64, ...light } = message;
    due.came(message.chunk);
    film.add(message);
    queued = message.queued;
    perChunk = message.frames / message.fps;
    cf.learnColor(message.prompt, message.color);
    feed.push({ bytes: cf.bytes(b64), mime: message.mime, start: message.start, end: message.end });
    if (running() && film.length === back) arriving = true;
    else if (film.length < back) view.waiting(mode === "starting", `Going back: chunk ${film.length} of ${back}`);
    else if (mode === "starting" && !arriving) {
      setMode("playing");
      video.play().catch((error) => error.name === "NotAllowedError" && toggle()); // wants one more click
    } else view.mode(mode, film);
    view.track(film);
    view.timings(message);
    view.position(video.currentTime, film, film.at(video.currentTime));
    cf.emit("chunk", light);
  },
  applied(message) {
    turns.splice(0, turns.indexOf(message.kind) + 1);
    if (message.kind === "prompt") cf.learnColor(message.prompt, message.color);
    if (change && change.prompt === message.prompt) change = { ...change, chunk: message.chunk };
    cf.emit("applied", message);
  },
  state(message) {
    if (turns.length) return; // overtaken: messages wait for room like chunks, so this may have been said long ago
    // A failed chunk or a marker of the timeline pauses too; then what is there is shown to its end.
    halted = message.state === "paused";
    cf.emit("state", message);
  },
  failed(message) {
    view.alert(message.message);
    if (message.fatal) end("failed");
    cf.emit("failed", message);
  },
  ended(message) {
    film.finished = true;
    if (message.reason in MADE_ROOM && running()) lost(MADE_ROOM[message.reason]);
    else if (message.reason === "closed" && running()) lost("This run was closed. Press play to start a new one.");
    else if (message.reason !== "finished" && running()) end("stopped");
    cf.emit("ended", message);
  },
};

const inbox = new cf.Inbox({
  fetch: (token, seq) => ask("fetch", { run: token, seq }),
  deliver(message) {
    heard = performance.now();
    handle[message.type](message);
  },
  waiting(message) {
    if (mode !== "starting") return leave(); // paused or stopped before it began: someone else may have the place
    queuing = true;
    view.queue(message);
  },
  refused(message) {
    view.queue(null);
    setMode("idle");
    view.alert(message.message);
    cf.emit("refused", message);
  },
  lost: (reason) => lost(reason),
});

function end(as) {
  video.pause();
  view.waiting(false);
  view.next((change = null));
  setMode(as);
}

function lost(reason = LOST) {
  if (!running()) return;
  end("failed");
  view.alert(reason);
}
