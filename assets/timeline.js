// The timeline editor (gr.HTML's js_on_load: element, props, server). The server holds the plan: every edit goes there as one
// operation of cf_app/ui/timeline_requests.py and the answer is drawn. Events of the page: cf_app/ui/player.py.
const root = element.querySelector(".tl");
const { chunkSeconds, policies, library } = props.setup;
const find = (selector) => root.querySelector(selector);
const axis = new cf.TimelineAxis(root, chunkSeconds);
const view = new cf.TimelineView(root, axis);
const inspector = new cf.TimelineInspector(root, axis, { edit: change, live, policies });
const say = find(".tl-say");

let plan = { blocks: [], markers: [], end: null, loop: null, timeline: null, undo: false, redo: false };
let doc = null; // the server's name for this page's timeline
let run = null; // token of the run that plays it
let received = 0; // chunks that the page has
let time = 0; // seconds of the picture on screen
let mode = "idle";
let cursor = null; // chunk where the next block or marker goes
let hover = null; // chunk under the mouse
let pending = []; // queued changes: {chunk, what}
let notes = [];
let chain = Promise.resolve();
let message = null; // {text, bad, until}

const running = () => run !== null && ["starting", "playing", "paused"].includes(mode);

// The server

/** One operation after the other; resolves to the answer. */
function ask(request) {
  const turn = chain.then(async () => {
    const answer = await send(request);
    if (!answer.gone) return answer;
    const opened = await send({ op: "open", timeline: plan.timeline });
    return opened.ok ? send(request) : opened;
  });
  chain = turn.catch(() => {});
  return turn;
}

async function send(request) {
  try {
    const answer = await server.edit({ doc, run, ...request });
    if (answer.doc) doc = answer.doc;
    return answer;
  } catch {
    return { ok: false, error: "The server does not answer. The timeline is as it was." };
  }
}

/** Sends an operation and shows what comes back. `then`: what to select. */
async function edit(operation, then) {
  const answer = await ask(operation);
  if (!answer.ok) {
    tell(answer.error, true);
    view.show(plan); // takes a preview back
    refresh();
    return answer;
  }
  const focused = root.contains(document.activeElement) && document.activeElement.closest(".tl-track, .tl-marks") !== null;
  accept(answer, operation);
  select(then === undefined ? followed(operation) : then, focused);
  return answer;
}

/** An edit of the inspector. If its block was generated while it was being written, its prompt holds from the next chunk on. */
async function change(operation) {
  const answer = await edit(operation);
  if (!answer.ok && answer.branch_at !== undefined && operation.parts && running()) live(operation.parts);
}

async function live(parts) {
  const answer = await edit({ op: "live", parts }, null);
  if (!answer.ok) return;
  message = null;
  select(answer.applies === null ? null : { start: answer.applies });
}

/** Where the selected thing is after an operation that the inspector or a key sent. */
function followed(operation) {
  if (operation.op === "move_marker") return { kind: operation.kind, chunk: operation.to };
  return view.selected;
}

function accept(answer, operation = {}) {
  plan = answer.plan;
  for (const block of plan.blocks) if (block.color !== null) cf.learnColor(block.caption, block.color);
  if (plan.live) received = Math.max(received, plan.generated);
  view.progress(plan.live ? received : 0); // when the film is over, all of the plan is free for the next one
  view.show(plan);
  if (running() && answer.applies !== null && operation.op !== "sync") {
    pending = pending.filter((change) => change.chunk !== answer.applies);
    pending.push({ chunk: answer.applies });
  }
  find(".tl-title").value = plan.title;
  refresh();
  cf.emit("timeline", { timeline: plan.timeline, story: plan.story });
}

const sync = () => ask({ op: "sync" }).then((answer) => answer.ok && (accept(answer, { op: "sync" }), select(view.selected)));

// What is selected, and the tools

function select(selected, focus = false) {
  const node = view.node(selected);
  const kept = node ? selected : null;
  view.choose(kept);
  const index = kept && kept.start !== undefined ? plan.blocks.findIndex((block) => block.start === kept.start) : -1;
  inspector.show(
    index >= 0
      ? { block: plan.blocks[index], index, count: plan.blocks.length, generated: view.generated }
      : kept ? { mark: node.tlMark, generated: view.generated } : {},
  );
  if (node && focus) {
    node.focus({ preventScroll: true });
    if (kept.kind) axis.reveal(kept.chunk);
  }
  refresh();
}

const shownChunk = () => Math.floor(time / chunkSeconds + 1e-3);
const chosenBlock = () => plan.blocks.find((block) => block.start === view.selected?.start);

/** Chunk where A, a marker or an import without a better place goes: the cursor, or the next chunk that can still change. */
function target() {
  if (cursor !== null && cursor >= view.generated) return cursor;
  const block = chosenBlock();
  if (block && !running()) return block.stop ?? block.start + 8;
  const last = plan.blocks[plan.blocks.length - 1];
  return running() ? view.generated + 1 : plan.end ?? last.start + 8;
}

function splitPlace(block) {
  const first = Math.max(block.start + 1, view.generated);
  const last = block.stop === null ? Infinity : block.stop - 1;
  for (const wish of [hover, cursor]) if (wish !== null && wish >= first && wish <= last) return wish;
  const stop = block.stop ?? Math.max(block.start, view.generated) + 16;
  return Math.round((Math.max(block.start, view.generated) + stop) / 2);
}

const actions = {
  undo: () => edit({ op: "undo" }),
  redo: () => edit({ op: "redo" }),
  async add(chunk = target()) {
    const under = plan.blocks.findLast((block) => block.start <= chunk);
    const answer = await edit({ op: "add", chunk, prompt: under.parts[0].prompt }, { start: chunk });
    if (!answer.ok) return;
    axis.reveal(chunk);
    inspector.write();
  },
  split() {
    const block = chosenBlock();
    if (!block) return;
    const at = splitPlace(block);
    edit({ op: "split", at }, { start: at });
  },
  duplicate() {
    const block = chosenBlock();
    if (block) edit({ op: "duplicate", cue: block.start }, { start: block.stop ?? block.start + 8 });
  },
  delete() {
    const { selected } = view;
    if (selected?.kind) return edit({ op: "remove_marker", kind: selected.kind, chunk: selected.chunk }, null);
    const block = chosenBlock();
    if (!block) return undefined;
    const before = plan.blocks[plan.blocks.indexOf(block) - 1];
    return edit({ op: "delete", cue: block.start }, { start: before ? before.start : 0 });
  },
  earlier: () => swap(-1),
  later: () => swap(1),
  mix: () => inspector.addPart(),
  fork: () => inspector.follow(),
  async branch() {
    const chunk = shownChunk();
    if (chunk < 1) return tell("Branch later: the film has only begun. Stop and play make a new one.");
    const answer = await ask({ op: "branch", chunk });
    return answer.ok ? cf.emit("branch", { chunk, timeline: answer.timeline }) : tell(answer.error, true);
  },
  in: () => axis.zoom(axis.scale * 1.4),
  out: () => axis.zoom(axis.scale / 1.4),
  fit() {
    const last = plan.blocks[plan.blocks.length - 1];
    axis.fit(Math.max(plan.end ?? last.start + 16, view.generated) + 1);
  },
  follow() {
    axis.setFollow(!axis.follow);
    if (axis.follow) axis.keep(time / chunkSeconds);
  },
  import: () => find(".tl-file").click(),
  export() {
    const name = (plan.title || "timeline").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "timeline";
    cf.download(new Blob([JSON.stringify(plan.timeline, null, 1) + "\n"], { type: "application/json" }), `${name}.json`);
  },
  text() {
    const form = find(".tl-text");
    form.hidden = !form.hidden;
    find("[data-do=text]").setAttribute("aria-expanded", String(!form.hidden));
    if (form.hidden) return;
    const text = form.querySelector("textarea");
    text.value = plan.text;
    text.focus();
    text.setSelectionRange(0, 0);
    text.scrollTop = 0;
  },
};

async function swap(by) {
  const block = chosenBlock();
  if (!block) return;
  const index = plan.blocks.indexOf(block);
  const answer = await edit({ op: "reorder", cue: block.start, by });
  if (answer.ok) select({ start: plan.blocks[index + by].start }, true);
}

async function load(text, what) {
  const answer = await edit({ op: "load", text }, null);
  if (!answer.ok) return false;
  tell(running() ? `${what} begins at chunk ${answer.applies ?? view.generated}` : `${what}: ${plan.blocks.length} blocks. Press play.`);
  axis.setFollow(true);
  if (!running() && axis.width > 700) actions.fit();
  return true;
}

const MARKS = {
  seed: (chunk) => ({ kind: "seed", chunk, seed: Math.floor(Math.random() * 1e6) }),
  memory: (chunk) => ({ kind: "memory", chunk, changes: { tau: 0.9 } }),
  pause: (chunk) => ({ kind: "pause", chunk }),
  loop: (chunk) => ({ kind: "loop", chunk: Math.max(1, chunk), to: 0 }),
  end: (chunk) => ({ kind: "end", chunk: Math.max(1, chunk) }),
};

// What is said: a message for a while, else the queued changes

function tell(text, bad = false) {
  message = { text, bad, until: performance.now() + (bad ? 9000 : 5000) };
  refresh();
}

function refresh() {
  const block = chosenBlock();
  const fixed = block && block.start < view.generated;
  const able = (name, yes) => root.querySelectorAll(`[data-do=${name}]`).forEach((button) => (button.disabled = !yes));
  able("undo", plan.undo);
  able("redo", plan.redo);
  able("branch", received > 0 && mode !== "starting" && shownChunk() > 0);
  able("split", Boolean(block) && (block.stop === null || block.stop - Math.max(block.start, view.generated - 1) > 1));
  able("duplicate", Boolean(block) && (block.stop === null || block.stop >= view.generated));
  able("delete", view.selected?.kind ? view.selected.chunk >= view.generated : Boolean(block) && !fixed && plan.blocks.length > 1);
  if (message && performance.now() > message.until) message = null;
  if (message) return show(message.text, message.bad);
  if (!pending.length) return show("");
  const { chunk } = pending[0];
  const wait = chunk * chunkSeconds - time;
  const more = pending.length > 1 ? `, ${pending.length - 1} more` : "";
  return show(`applies at chunk ${chunk}${mode === "playing" && wait > 0 ? ` (in ${wait.toFixed(1)} s)` : ""}${more}`);
}

function show(text, bad = false) {
  if (say.textContent !== text) say.textContent = text;
  say.title = text;
  say.classList.toggle("tl-bad", bad);
  say.classList.toggle("tl-waits", pending.length > 0 && !message);
  for (const node of view.track.children) node.classList.toggle("tl-queued", pending.some((change) => change.chunk === node.tlBlock.start));
}

function note(chunk, sign, text, bad = false) {
  notes = [...notes, { chunk, sign, text, bad }];
  view.remember(notes);
}
