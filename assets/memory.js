// The memory panel (gr.HTML's js_on_load: element, props, server). Shows the memory of the chunk on screen; commands go through the player.
const root = element.querySelector(".mm");
const store = cf.memory;
const { setup } = props;
const part = Object.fromEntries([...root.querySelectorAll("[data-m]")].map((node) => [node.dataset.m, node]));
const toast = root.querySelector(".mm-toast");
const tabs = [...root.querySelectorAll("[role=tab]")];
const exports = ["json", "csv", "png", "kv"].map((name) => root.querySelector(`[data-do=${name}]`));

let drawn = -1; // chunk that the lanes show
let visible = true;
let stale = true; // something came while nobody looked
let toasted = 0;

const card = new cf.MemoryCard(root, { act });
const lanes = new cf.MemoryLanes(root, { open, act });
const layers = new cf.MemoryLayers(root);
const look = new cf.MemoryLook(root);
const strip = new cf.MemoryStrip(root, () => visible && !store.folded && !document.hidden);
const policy = new cf.MemoryPolicy(root, setup.policies, setup.own);
policy.told = (text) => say(text);
cf.memoryTips(root);


// What is shown

function show() {
  stale = !visible || store.folded || document.hidden;
  if (stale) return;
  const record = store.current;
  root.dataset.empty = String(!record);
  if (!record) return empty();
  const { snapshot } = record;
  const after = store.records[store.records.indexOf(record) - 1]?.chunk === drawn;
  lanes.show(record, store.layer, after && drawn >= 0);
  drawn = record.chunk;
  part.chunk.textContent = `chunk ${record.chunk}`;
  part.time.textContent = cf.clock(record.end);
  part.policy.textContent = `${setup.policies.find((one) => one.name === snapshot.policy)?.title ?? snapshot.policy}`;
  part.bytes.textContent = cf.bytesText(snapshot.bytes_held);
  part.share.textContent = `${((100 * snapshot.memory_ms) / record.timings.total).toFixed(1)} %`;
  now(record);
  ghosts(record);
  layers.show(record);
  look.show(record);
}

function empty() {
  lanes.empty(setup.sizes);
  drawn = -1;
  part.chunk.textContent = "\u2013";
  part.time.textContent = "";
  part.policy.textContent = setup.policies.find((one) => one.name === setup.own.policy).title;
  part.bytes.textContent = part.share.textContent = "\u2013";
  root.querySelector(".mm-now-say").textContent = "Press play: the memory fills as the film grows.";
  root.querySelector(".mm-ghosts").hidden = true;
}

/** The surprisal of this chunk against the threshold. */
function now({ snapshot }) {
  const { similarity, tau } = snapshot;
  const box = root.querySelector(".mm-now");
  const value = similarity === null ? 0 : 1 - similarity;
  const top = Math.max(2 * (1 - tau), 0.0005);
  box.style.setProperty("--at", `${Math.min(100, (100 * value) / top)}%`);
  box.style.setProperty("--tau", `${(100 * (1 - tau)) / top}%`);
  box.classList.toggle("mm-over", snapshot.promoted.length > 0);
  const gated = snapshot.gate === "sim" && snapshot.slow > 0;
  const done = snapshot.promoted.length ? "promoted" : !gated || !snapshot.eligible ? "" : "let go";
  root.querySelector(".mm-now-say").textContent = similarity === null ? "nothing to compare with yet" : `surprisal ${cf.short(value)}${done ? `, ${done}` : ""}`;
}

/** What the slow memory would hold under the tau of the ghosts. */
function ghosts(record) {
  const box = root.querySelector(".mm-ghosts");
  box.hidden = store.what === null;
  if (box.hidden) return;
  const { kept, chunks, layers: count } = store.whatIf(store.what, record.chunk, store.layer);
  const real = new Set(store.entries(record.snapshot, "slow", store.layer).filter((entry) => entry.promoted_at !== null).map((entry) => entry.latent));
  const others = [...kept.keys()].filter((latent) => !real.has(latent)).length;
  const lost = [...real].filter((latent) => !kept.has(latent)).length;
  const same = kept.size - others;
  const held = !lost && !others ? "just what is held" : [same ? `${same} of these` : "", others ? `${others} other${others > 1 ? "s" : ""}` : ""].filter(Boolean).join(" and ") || "nothing";
  box.querySelector(".mm-ghost-say").textContent = `With \u03c4 ${cf.tau(store.what)}: ${chunks.size} promotion${chunks.size === 1 ? "" : "s"}, would hold ${held}`;
  const row = box.querySelector(".mm-ghost-row");
  row.replaceChildren(
    ...[...kept].sort(([a], [b]) => a - b).map(([latent, layersOf]) => {
      const ghost = document.createElement("img");
      ghost.alt = "";
      ghost.src = store.pictures.get(latent) ?? "data:,";
      ghost.className = real.has(latent) ? "mm-same" : "";
      ghost.style.setProperty("--agree", layersOf / (store.layer === null ? count : 1));
      ghost.title = cf.clock(store.timeOf(latent));
      return ghost;
    }),
  );
}

// What can be done

function open(entry, cell) {
  card.open(entry, store.current, cell);
  cf.emit("seek", { time: card.seconds + card.half });
}

const SAYS = {
  pin: (c) => `Pinned ${name(c.latent)}`,
  unpin: (c) => `Unpinned ${name(c.latent)}`,
  evict: (c) => `Evicted ${name(c.latent)}`,
  restore: (c) => `Brought ${name(c.latent)} back`,
  memory: (c) => Object.entries(c.changes).map(([key, value]) => `${setup.labels[key] ?? key} ${value}`).join(", "),
  prompt: (c) => `Prompt: ${c.prompt}`,
  seed: (c) => `Seed ${c.seed}`,
};
const BACK = { pin: "unpin", unpin: "pin", evict: "restore", restore: "evict" };
const name = (latent) => cf.clock(store.timeOf(latent));

/** The command that undoes `done`, or null. */
function backOf(done) {
  if (BACK[done.kind]) return { kind: BACK[done.kind], latent: done.latent };
  if (done.kind !== "memory") return null;
  const before = store.records.findLast((record) => record.chunk < done.chunk)?.snapshot.settings ?? setup.own;
  return { kind: "memory", changes: before };
}

async function act(kind, entry) {
  const command = { kind, latent: entry.latent };
  const answer = await store.send(command);
  if (answer.ok) say(`${SAYS[kind](command)}, from chunk ${answer.chunk} on.`, { ...command, chunk: answer.chunk });
  else card.entry ? card.say(answer.error) : say(answer.error, null, true);
}

async function undo(done) {
  const command = backOf(done);
  const answer = await store.send(command);
  say(answer.ok ? `Undone, from chunk ${answer.chunk} on.` : answer.error, null, !answer.ok);
}

/** A line that stays for some seconds; `done` adds its undo. */
function say(text, done = null, bad = false) {
  toast.replaceChildren(document.createTextNode(text));
  toast.classList.toggle("mm-bad", bad);
  if (done) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Undo", className: "mm-quiet" });
    button.addEventListener("click", () => undo(done));
    toast.append(button);
  }
  clearTimeout(toasted);
  toasted = setTimeout(() => toast.replaceChildren(), bad ? 9000 : 7000);
}

function drawLog() {
  const list = root.querySelector(".mm-log");
  const subject = (done) => `${done.kind === "memory" ? "memory" : done.latent}`;
  const later = new Set(); // only the last that was done to something can be undone
  const items = store.log.slice(-60).reverse().map((done) => {
    const item = document.createElement("li");
    const where = Object.assign(document.createElement("button"), { type: "button", className: "mm-at", textContent: `chunk ${done.chunk}`, title: "Go there" });
    where.addEventListener("click", () => store.seek(Math.min(done.chunk, store.newest?.chunk ?? 0)));
    item.append(where, Object.assign(document.createElement("span"), { textContent: SAYS[done.kind](done) }));
    const last = !later.has(subject(done));
    later.add(subject(done));
    if (last && backOf(done)) {
      const back = Object.assign(document.createElement("button"), { type: "button", className: "mm-quiet", textContent: "Undo" });
      back.addEventListener("click", () => undo(done));
      item.append(back);
    }
    return item;
  });
  list.replaceChildren(...items);
  list.dataset.none = items.length ? "" : "Nothing was changed yet. Pins, evictions, settings and prompts are noted here.";
}

const nameOf = (kind) => `context-forcing-memory-seed${store.run.seed}-chunk${store.newest.chunk}.${kind}`;
const actions = {
  live: () => cf.emit("live"),
  fold: () => store.set("folded", !store.folded),
  json: () => cf.download(new Blob([cf.memoryJson(store)], { type: "application/json" }), nameOf("json")),
  csv: () => cf.download(new Blob([cf.memoryCsv(store)], { type: "text/csv" }), nameOf("csv")),
  png: async () => cf.download(await cf.memoryPng(store, setup.title), nameOf("png")),
  async kv() {
    say("Writing the KV snapshot between two chunks \u2026");
    const answer = await server.kv_snapshot({ run: store.run.run }).catch(() => ({ ok: false, error: "The server does not answer." }));
    if (!answer.ok) return say(answer.error, null, true);
    say(`KV snapshot of chunk ${answer.chunk}, ${cf.bytesText(answer.bytes)}.`);
    cf.download(`${window.gradio_config?.root ?? ""}/gradio_api/file=${answer.path}`, answer.name);
  },
};
root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button && actions[button.dataset.do]) actions[button.dataset.do]();
});

// Tabs: one open at a time, a second click closes it

function tab(chosen) {
  for (const one of tabs) {
    const on = one === chosen && one.ariaSelected !== "true";
    one.ariaSelected = String(on);
    one.tabIndex = one === chosen ? 0 : -1;
    root.querySelector(`#${one.getAttribute("aria-controls")}`).hidden = !on;
  }
  show();
}
for (const one of tabs) one.addEventListener("click", () => tab(one));
root.querySelector(".mm-tabs").addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
  for (const one of tabs) one.tabIndex = one === next ? 0 : -1;
  next.focus();
});

// What comes

store.listen((what) => {
  if (what === "run") {
    drawn = -1;
    store.layer = null;
    card.close();
    look.reset();
    policy.fill(setup.own, false);
    root.querySelector(".mm-api").replaceChildren("For programs: /memory_history with run ", Object.assign(document.createElement("code"), { textContent: store.run.run }));
    drawLog();
    say("");
  }
  if (what === "chunk") {
    policy.show(store.newest.snapshot.settings);
    card.update();
    strip.draw();
    for (const button of exports) button.disabled = false;
  }
  if (what === "log") drawLog();
  if (what === "folded") {
    root.classList.toggle("mm-folded", store.folded);
    const fold = root.querySelector(".mm-fold");
    fold.ariaExpanded = String(!store.folded);
    fold.ariaLabel = fold.title = store.folded ? "Show the memory panel" : "Hide the memory panel";
    strip.draw();
    // The curve above comes back, too: what was opened must not be pushed out of sight.
    requestAnimationFrame(() => fold.scrollIntoView({ block: "nearest" }));
  }
  if (what === "shown") strip.head();
  root.classList.toggle("mm-past", !store.live);
  root.querySelector(".mm-live").ariaPressed = String(store.live);
  if (["run", "shown", "layer", "what", "folded"].includes(what)) show();
});

new IntersectionObserver((entries) => {
  visible = entries[entries.length - 1].isIntersecting;
  if (visible && stale) catchUp();
}).observe(root);
document.addEventListener("visibilitychange", () => stale && catchUp());
function catchUp() {
  drawn = -1;
  show();
  strip.draw();
}

if (matchMedia("(min-width: 1024px)").matches) tab(tabs[0]);
root.querySelector(".mm-bound").textContent = cf.memoryBounds;
drawLog();
show();
strip.draw();
