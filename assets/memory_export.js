// The memory as files: JSON (what cf_app/memory/export.py reads), CSV (a row per chunk and entry), and a picture of the panel.
(() => {
  const COLUMNS = [
    "chunk", "start_s", "policy", "sink_size", "slow_size", "fast_size", "tau", "timing", "decision", "similarity", "surprisal", "promoted", "evicted",
    "bytes_held", "memory_ms", "lane", "slot", "latent", "latent_s", "entry_prompt", "entry_surprisal", "promoted_at", "agreement", "pinned", "position",
  ];
  const CSV_SIGNS = /[",\n\r]/;

  cf.memoryJson = (store) => {
    const { run, records, log } = store;
    return JSON.stringify({
      format: "context-forcing-memory", version: 1, seed: run.seed, fps: run.fps_played, chunk_frames: run.chunk_frames, chunk_latents: run.chunk_latents,
      chunks: store.lines.length, kept: records.length,
      log: log.map(({ run: _run, seq: _seq, type: _type, ...entry }) => entry),
      prompts: records.map(({ prompt }) => prompt),
      snapshots: records.map(({ snapshot }) => snapshot),
    });
  };

  cf.memoryCsv = (store) => {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return CSV_SIGNS.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const rows = [COLUMNS];
    for (const { snapshot: s, start } of store.records) {
      const similarity = s.similarity;
      const own = [s.chunk, start, s.policy, s.sink, s.slow, s.fast, s.tau, s.timing, s.decision, similarity, similarity === null ? null : 1 - similarity, s.promoted.join(" "), s.evicted.join(" "), s.bytes_held, s.memory_ms];
      for (const e of s.entries) rows.push([...own, e.lane, e.slot, e.latent, store.timeOf(e.latent), e.prompt, e.surprisal, e.promoted_at, e.agreement, e.pinned, e.position]);
    }
    return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  };

  // The picture: drawn from the same data, in the colours of the page.

  const WIDE = 960;
  const LANES = [["sink", "Attention sink"], ["slow", "Slow memory"], ["fast", "Fast memory"]];

  class Sheet {
    constructor(store, title) {
      this.store = store;
      this.title = title;
      this.record = store.current ?? store.newest;
      const style = getComputedStyle(document.querySelector(".mm"));
      this.ink = Object.fromEntries(["bg", "panel", "line", "text", "dim", "faint"].map((name) => [name, style.getPropertyValue(`--cf-${name}`).trim()]));
      this.color = (prompt) => style.getPropertyValue(`--cf-p${cf.color(prompt)}`).trim();
      this.canvas = document.createElement("canvas");
      this.pen = this.canvas.getContext("2d");
      this.y = 0;
    }

    async draw() {
      const { snapshot } = this.record;
      const pictures = await this.load(snapshot.entries);
      const rows = LANES.reduce((sum, [lane]) => sum + Math.ceil(Math.max(this.of(lane).length, snapshot[lane]) / 12), 0);
      const map = Math.min(240, Math.max(24, snapshot.layers * 8));
      [this.canvas.width, this.canvas.height] = [WIDE * 2, (122 + 3 * 30 + rows * 92 + 150 + map + 64) * 2];
      this.pen.scale(2, 2);
      this.rect(0, 0, WIDE, this.canvas.height / 2, this.ink.bg);
      this.y = 34;
      this.say(24, this.title, "text", "600 17px");
      this.y += 22;
      const { record } = this;
      this.say(24, `Memory after chunk ${record.chunk}, ${cf.clock(record.end)}   ${snapshot.policy}, \u03c4 ${snapshot.tau}, ${snapshot.timing}, ${snapshot.decision}   ${cf.bytesText(snapshot.bytes_held)}   seed ${record.seed}`, "dim", "13px");
      this.y += 18;
      this.prompt(record.prompt);
      this.y += 28;
      for (const [lane, name] of LANES) if (snapshot[lane]) this.lane(lane, name, pictures);
      this.curve(130);
      this.say(24, `Layers (${snapshot.layers}) and slots, older to newer`, "dim", "12px");
      this.y += 8;
      cf.drawMemoryMap(this.pen, snapshot, 24, this.y, WIDE - 48, map / snapshot.layers, this.store.layer);
      return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    }

    of(lane) {
      return this.store.entries(this.record.snapshot, lane, this.store.layer).sort((a, b) => (this.store.layer === null ? a.latent - b.latent : 0));
    }
    async load(entries) {
      const pictures = new Map();
      await Promise.all(
        [...new Set(entries.map((entry) => entry.latent))].map(async (latent) => {
          const url = this.store.pictures.get(latent);
          if (!url) return;
          const picture = new Image();
          picture.src = url;
          await picture.decode().catch(() => {});
          pictures.set(latent, picture);
        }),
      );
      return pictures;
    }
    rect(x, y, width, height, color) {
      this.pen.fillStyle = color;
      this.pen.fillRect(x, y, width, height);
    }
    say(x, text, ink, font, most = WIDE - x - 24) {
      this.pen.font = `${font} system-ui, sans-serif`;
      this.pen.fillStyle = this.ink[ink];
      this.pen.fillText(text, x, this.y, most);
    }
    prompt(text) {
      this.rect(24, this.y - 9, 9, 9, this.color(text));
      this.say(40, text, "dim", "13px");
    }

    lane(lane, name, pictures) {
      const entries = this.of(lane);
      const { snapshot, end } = this.record;
      const [wide, high, step] = [68, 42, 76];
      this.say(24, `${name}  ${entries.length} of ${snapshot[lane]}`, "text", "600 13px");
      this.y += 10;
      const size = Math.max(entries.length, snapshot[lane]);
      for (let i = 0; i < size; i++) {
        const x = 24 + (i % 12) * step;
        const y = this.y + Math.floor(i / 12) * 92;
        const entry = entries[i];
        this.rect(x, y, wide, high, this.ink.panel);
        if (!entry) continue;
        const picture = pictures.get(entry.latent);
        if (picture) this.pen.drawImage(picture, x, y, wide, high);
        this.rect(x, y + high, wide, 3, this.color(entry.prompt));
        this.pen.globalAlpha = cf.brightness(entry.surprisal, snapshot.tau);
        this.rect(x, y - 3, wide, 2, this.ink.text);
        this.pen.globalAlpha = 1;
        const time = this.store.timeOf(entry.latent);
        const row = this.y;
        this.y = y + high + 17;
        this.say(x, `${cf.clock(time)}${entry.pinned ? "  pinned" : ""}`, "text", "11px", wide);
        this.y += 14;
        this.say(x, `${entry.surprisal === null ? "" : cf.short(entry.surprisal) + "  "}${Math.max(0, end - time).toFixed(0)} s old`, "faint", "11px", wide);
        this.y = row;
      }
      this.y += Math.ceil(size / 12) * 92 + 20;
    }

    curve(height) {
      const lines = this.store.lines.filter((line) => line.chunk <= this.record.chunk);
      this.say(24, "Surprisal per chunk, the threshold 1 - \u03c4, promotions", "dim", "12px");
      this.y += 10;
      const top = Math.max(0.01, ...lines.map((line) => Math.max(line.surprisal ?? 0, 1.6 * (1 - line.tau))));
      const wide = (WIDE - 48) / Math.max(40, lines.length);
      const up = (value) => this.y + height - 30 - ((height - 40) * value) / top;
      lines.forEach((line, index) => {
        const x = 24 + index * wide;
        this.rect(x, up(1 - line.tau), wide, 1, this.ink.faint);
        if (line.surprisal === null) return;
        this.pen.globalAlpha = 0.15 + 0.6 * cf.brightness(line.surprisal, line.tau);
        this.rect(x, up(line.surprisal), Math.max(0.6, wide - 1), up(0) - up(line.surprisal), this.ink.text);
        this.pen.globalAlpha = 1;
        if (!line.promoted.length) return;
        this.pen.fillStyle = this.color(line.prompt);
        this.pen.beginPath();
        this.pen.arc(x + wide / 2, up(line.surprisal), Math.min(4, Math.max(1.6, wide / 3)), 0, 7);
        this.pen.fill();
      });
      this.y += height;
    }
  }

  /** A Blob: the panel as it is on screen, with curve and map. */
  cf.memoryPng = (store, title) => new Sheet(store, title).draw();
})();
