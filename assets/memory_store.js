// What the page knows of a run's memory: snapshots by chunk, one line of numbers per chunk, small pictures by latent frame. No DOM.
// `cf.memory` is the one store; it fills itself from the player's events (cf_app/ui/player.py) and tells its listeners what changed:
// "run" (emptied), "chunk" (one came), "shown" (another chunk is on screen), "log" (a command took effect), "live"
// (whether that chunk is the newest), and "layer", "what", "folded" (what is looked at).
(() => {
  // Bounds. An hour of 0.75 s chunks is 4,800 chunks. The newest SNAPSHOTS chunks keep their snapshot, of those up to twice as old every
  // 2nd does, up to four times as old every 4th, and so on: about 1,300 after an hour, 2,500 after a day. Lines (what curve and ghosts
  // need) do the same from LINES on. Pictures go with the last snapshot that shows them.
  const SNAPSHOTS = 512;
  const LINES = 8192;
  const OFTEN = 64; // chunks between two looks at what can go
  const LOG = 500;

  /** Without what is too old to be kept; `whole`: number of newest chunks that all stay. */
  function thin(list, whole) {
    const newest = list[list.length - 1].chunk;
    return list.filter(({ chunk }) => {
      const age = newest - chunk;
      return age < whole || chunk % 2 ** (1 + Math.floor(Math.log2(age / whole))) === 0;
    });
  }

  /** Index of the last item of `list` (rising in `chunk`) at or before `chunk`, -1 if there is none. */
  function last(list, chunk) {
    let low = -1;
    let high = list.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (list[middle].chunk <= chunk) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  class MemoryStore {
    constructor() {
      this.listeners = [];
      this.layer = null; // the layer that is looked at, null for all together
      this.what = null; // tau of the ghosts, null for none
      this.folded = false;
      this.wish = null; // memory settings that wait for the next run
      this.clear(null);
      cf.on("run", (message) => {
        this.clear(message);
        this.tell("run");
        if (this.wish) this.send({ kind: "memory", changes: this.wish });
        this.wish = null;
      });
      cf.on("chunk", (message) => this.add(message));
      cf.on("shown", (detail) => this.show(detail));
      cf.on("applied", (message) => this.note(message));
    }

    clear(run) {
      this.run = run;
      this.records = []; // {chunk, start, end, prompt, color, seed, timings (ms), snapshot}
      this.lines = []; // {chunk, start, end, prompt, color, surprisal, similarities, promoted, tau, gate, eligible, decision, slow, policy}
      this.pictures = new Map(); // latent -> data URL
      this.log = []; // {chunk, kind, ...}: commands that took effect, oldest first
      this.shown = -1; // chunk on screen
      this.live = true;
      this.time = 0;
    }

    /** Changes what is looked at: layer, what, folded. */
    set(name, value) {
      if (this[name] === value) return;
      this[name] = value;
      this.tell(name);
    }
    /** A command to the session; resolves to {ok: true, chunk, ...} or {ok: false, error}. */
    send(request) {
      return new Promise((resolve) => cf.emit("command", { ...request, reply: resolve }));
    }

    listen(listener) {
      this.listeners.push(listener);
    }
    tell(what) {
      for (const listener of this.listeners) listener(what);
    }

    add(message) {
      const { chunk, start, end, prompt, color, seed, snapshot, timings } = message;
      if (this.records.length && this.newest.chunk >= chunk) return;
      const { similarity, similarities, promoted, tau, gate, eligible, decision, slow, policy } = snapshot;
      this.records.push({ chunk, start, end, prompt, color, seed, timings, snapshot });
      const surprisal = similarity === null ? null : 1 - similarity;
      this.lines.push({ chunk, start, end, prompt, color, surprisal, similarities, promoted, tau, gate, eligible, decision, slow, policy });
      message.thumbnails.forEach((url, index) => this.pictures.set(message.first_latent + index, url));
      this.perChunk = message.thumbnails.length;
      this.bound();
      this.tell("chunk");
    }

    bound() {
      if (this.newest.chunk % OFTEN || this.newest.chunk < SNAPSHOTS) return;
      this.lines = thin(this.lines, LINES);
      this.records = thin(this.records, SNAPSHOTS);
      const needed = new Set();
      for (const { snapshot } of this.records) for (const entry of snapshot.entries) needed.add(entry.latent);
      for (const latent of this.pictures.keys()) if (!needed.has(latent)) this.pictures.delete(latent);
    }

    show({ chunk, time, live }) {
      this.time = time;
      if (live !== this.live) {
        this.live = live;
        this.tell("live");
      }
      if (chunk === this.shown) return;
      this.shown = chunk;
      this.tell("shown");
    }

    note(message) {
      const { chunk, kind } = message;
      if (!["memory", "pin", "unpin", "evict", "restore", "prompt", "seed"].includes(kind)) return;
      this.log.push({ ...message, chunk });
      if (this.log.length > LOG) this.log.shift();
      this.tell("log");
    }

    get newest() {
      return this.records[this.records.length - 1];
    }
    /** The record of `chunk`, or of the nearest kept one before it; undefined before the first. */
    at(chunk) {
      return this.records[Math.max(0, last(this.records, chunk))];
    }
    /** What is on screen. */
    get current() {
      return this.shown < 0 ? undefined : this.at(this.shown);
    }
    /** Brings a chunk on screen: its first picture, for which half a picture later is a safe place to point at. */
    seek(chunk) {
      const line = this.line(chunk);
      cf.emit("seek", line ? { time: line.start + 0.5 / this.run.fps_played } : { chunk });
    }
    /** Lines of chunks from..to. */
    between(from, to) {
      return this.lines.slice(Math.max(0, last(this.lines, from - 1) + 1), last(this.lines, to) + 1);
    }
    line(chunk) {
      const found = this.lines[last(this.lines, chunk)];
      return found?.chunk === chunk ? found : undefined;
    }

    /** Seconds in the film at which a latent frame begins. */
    timeOf(latent) {
      const chunk = Math.floor(latent / this.perChunk);
      const line = this.lines[Math.max(0, last(this.lines, chunk))];
      const length = line.end - line.start;
      return line.start + (chunk - line.chunk) * length + ((latent % this.perChunk) * length) / this.perChunk;
    }

    /** Entries of a lane as all layers together see them, or as `layer` does: like EntryView, those of a layer with its own slots. */
    entries(snapshot, lane, layer = null) {
      const views = snapshot.entries.filter((entry) => entry.lane === lane);
      if (layer === null || !snapshot.layer_slots[layer]) return views;
      const first = { sink: 0, slow: snapshot.sink, fast: snapshot.sink + snapshot.slow }[lane];
      const held = [];
      for (let index = 0; index < snapshot[lane]; index++) {
        const latent = snapshot.layer_slots[layer][first + index];
        const view = views.find((entry) => entry.latent === latent);
        if (view) held.push({ ...view, slot: first + index });
      }
      return held;
    }

    /**
     * What another tau would have kept in slow memory up to a chunk, from the recorded similarities: latent -> number of layers, and which
     * chunks it would have promoted (chunk -> number of layers). First order: the keys themselves would have come out a little
     * differently; pins and evictions by hand are left out. cf_app/memory/what_if.py is the same in Python.
     */
    whatIf(tau, upto, layer = null) {
      const kept = new Map();
      const chunks = new Map();
      const rows = new Map(); // layer -> promoted latent frames, oldest first
      let size = 0;
      let layers = 1;
      for (const line of this.lines) {
        if (line.chunk > upto) break;
        size = line.slow;
        layers = line.similarities.length || layers;
        if (!line.eligible || !line.similarities.length) continue;
        const mean = line.similarities.reduce((sum, value) => sum + value, 0) / line.similarities.length;
        line.similarities.forEach((own, index) => {
          if (!((line.decision === "shared" ? mean : own) < tau)) return;
          if (!rows.has(index)) rows.set(index, []);
          rows.get(index).push(line.chunk * this.perChunk);
          if (layer === null || layer === index) chunks.set(line.chunk, (chunks.get(line.chunk) || 0) + 1);
        });
      }
      for (const [index, row] of rows) {
        if (layer !== null && layer !== index) continue;
        for (const latent of size ? row.slice(-size) : []) kept.set(latent, (kept.get(latent) || 0) + 1);
      }
      return { kept, chunks, layers };
    }
  }

  cf.memoryBounds = `The newest ${SNAPSHOTS} chunks can be looked at one by one, older ones at every 2nd, 4th, 8th \u2026 chunk: about 1,300 for an hour. The curve keeps every chunk for an hour and a half.`;
  cf.MemoryStore = MemoryStore;
  cf.memory = new MemoryStore();

  /** Small numbers without the leading zero, as the memory's labels have them: 0.083 -> ".083". */
  cf.short = (value, digits = Math.abs(value) < 0.0095 ? 4 : 3) => (value === null || value === undefined ? "\u2013" : value.toFixed(digits).replace(/^(-?)0\./, "$1."));
  /** 0.95, 0.9973: at least two digits, no more than four. */
  cf.tau = (value) => value.toFixed(4).replace(/0{1,2}$/, "");
  cf.bytesText = (bytes) => {
    const units = ["B", "KB", "MB", "GB", "TB"];
    let unit = 0;
    for (; bytes >= 1000 && unit < 4; unit++) bytes /= 1000;
    return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
  };
  /** How bright something of this surprisal is, 0 to 1: half way at the threshold of promotion. */
  cf.brightness = (surprisal, tau) => {
    if (surprisal === null || surprisal === undefined) return 0;
    return Math.min(1, Math.max(0, surprisal) / Math.max(0.0005, 2 * (1 - tau)));
  };
})();
