// What differs between layers: the map of layers and slots, coloured by source time, and where the attention goes.
(() => {
  const RAMP = [[38, 46, 82], [66, 98, 136], [128, 166, 166], [236, 226, 178]]; // older to newer
  const GAP = 6; // pixels between lanes
  const LANES = ["sink", "slow", "fast"];

  /** 0..1 -> a colour of the ramp. */
  function tint(part) {
    const at = Math.min(0.9999, Math.max(0, part)) * (RAMP.length - 1);
    const [low, high, t] = [RAMP[Math.floor(at)], RAMP[Math.floor(at) + 1], at % 1];
    return `rgb(${low.map((value, i) => Math.round(value + t * (high[i] - value))).join(" ")})`;
  }
  cf.memoryTint = tint;

  /** Left edges of all slots in a row of `width` pixels, lanes apart, and the width of one. */
  function columns(snapshot, width) {
    const lanes = LANES.map((lane) => snapshot[lane]).filter((size) => size > 0);
    const slots = lanes.reduce((sum, size) => sum + size, 0);
    const wide = (width - GAP * (lanes.length - 1)) / slots;
    const lefts = [];
    lanes.forEach((size, lane) => {
      for (let i = 0; i < size; i++) lefts.push(lefts.length * wide + GAP * lane);
    });
    return { lefts, wide };
  }

  /** Draws the map into a 2-D context at x, y; also used by the PNG export. */
  cf.drawMemoryMap = (pen, snapshot, x, y, width, rowHeight, picked) => {
    const { lefts, wide } = columns(snapshot, width);
    const held = snapshot.layer_slots.flat().filter((latent) => latent >= 0);
    const [oldest, newest] = [Math.min(...held), Math.max(...held)];
    snapshot.layer_slots.forEach((row, layer) => {
      pen.globalAlpha = picked === null || picked === layer ? 1 : 0.35;
      row.forEach((latent, slot) => {
        if (latent < 0) return;
        pen.fillStyle = tint((latent - oldest) / Math.max(1, newest - oldest));
        pen.fillRect(x + lefts[slot], y + layer * rowHeight, Math.max(1, wide - 1), Math.max(1, rowHeight - (rowHeight > 3 ? 1 : 0)));
      });
    });
    pen.globalAlpha = 1;
  };

  cf.MemoryLayers = class {
    constructor(root) {
      this.store = cf.memory;
      this.pane = root.querySelector("#mm-layers");
      this.map = root.querySelector(".mm-map");
      this.canvas = this.map.querySelector("canvas");
      this.say = root.querySelector(".mm-map-say");
      this.agree = root.querySelector(".mm-agree");
      this.pick = root.querySelector("[data-pick=layer]");
      this.record = null;
      this.pick.addEventListener("change", () => this.store.set("layer", this.pick.value === "" ? null : Number(this.pick.value)));
      this.map.addEventListener("click", (event) => {
        const layer = this.at(event).layer;
        this.store.set("layer", layer === this.store.layer ? null : layer);
      });
      this.map.addEventListener("pointermove", (event) => this.tell(this.at(event)));
      this.map.addEventListener("pointerleave", () => this.tell(null));
      this.map.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.draw()).observe(this.map);
    }

    show(record) {
      this.record = record;
      const { layers } = record.snapshot;
      if (this.pick.options.length !== layers + 1) {
        while (this.pick.options.length > 1) this.pick.lastElementChild.remove();
        for (let layer = 0; layer < layers; layer++) this.pick.add(new Option(`layer ${layer}`, layer));
      }
      this.pick.value = this.store.layer ?? "";
      this.agree.textContent = this.agreement(record.snapshot);
      this.draw();
    }

    agreement(snapshot) {
      const slow = snapshot.entries.filter((entry) => entry.lane === "slow" && entry.promoted_at !== null);
      if (snapshot.decision === "shared") return `all ${snapshot.layers} layers decide together`;
      if (!slow.length) return "nothing is promoted yet";
      const all = slow.filter((entry) => entry.agreement === snapshot.layers).length;
      const mean = slow.reduce((sum, entry) => sum + entry.agreement, 0) / slow.length / snapshot.layers;
      return `${Math.round(100 * mean)} % on average; all layers hold ${all} of ${slow.length}`;
    }

    get rowHeight() {
      return Math.max(2, Math.min(11, Math.floor(176 / (this.record?.snapshot.layers ?? 1))));
    }

    draw() {
      if (!this.record || this.pane.hidden || !this.map.clientWidth) return;
      const { snapshot } = this.record;
      const [width, height] = [this.map.clientWidth, this.rowHeight * snapshot.layers];
      const density = window.devicePixelRatio || 1;
      Object.assign(this.canvas, { width: Math.round(width * density), height: Math.round(height * density) });
      this.canvas.style.height = `${height}px`;
      const pen = this.canvas.getContext("2d");
      pen.setTransform(density, 0, 0, density, 0, 0);
      cf.drawMemoryMap(pen, snapshot, 0, 0, width, this.rowHeight, this.store.layer);
    }

    at(event) {
      const { snapshot } = this.record ?? {};
      if (!snapshot) return { layer: null };
      const box = this.canvas.getBoundingClientRect();
      const { lefts, wide } = columns(snapshot, box.width);
      const x = event.clientX - box.left;
      const slot = lefts.findIndex((left) => left <= x && x < left + wide);
      return { layer: Math.min(snapshot.layers - 1, Math.max(0, Math.floor((event.clientY - box.top) / this.rowHeight))), slot };
    }

    tell(place) {
      const latent = place && place.slot >= 0 && place.layer !== null ? this.record.snapshot.layer_slots[place.layer][place.slot] : null;
      if (latent === null) this.say.textContent = "";
      else if (latent < 0) this.say.textContent = `layer ${place.layer}, slot ${place.slot}: empty`;
      else this.say.textContent = `layer ${place.layer}, slot ${place.slot}: ${cf.clock(this.store.timeOf(latent))}`;
    }

    key(event) {
      if (!this.record) return;
      const { layers } = this.record.snapshot;
      const at = this.store.layer;
      const to = { ArrowUp: at === null ? layers - 1 : at - 1, ArrowDown: at === null ? 0 : at + 1, Escape: -1, Home: 0, End: layers - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.store.set("layer", to < 0 || to >= layers ? null : to);
      this.say.textContent = this.store.layer === null ? "all layers together" : `layer ${this.store.layer}`;
    }
  };

  // Attention: per lane one stretch of a bar, and a number in the head of each lane.
  cf.MemoryLook = class {
    constructor(root) {
      this.store = cf.memory;
      this.bar = root.querySelector(".mm-look");
      this.say = root.querySelector(".mm-look-say");
      this.sums = Object.fromEntries(LANES.map((lane) => [lane, root.querySelector(`[data-mass=${lane}]`)]));
      this.on = root.querySelector("[data-pick=attention]");
      this.on.addEventListener("change", () => this.turn());
    }

    async turn() {
      const answer = await this.store.send({ kind: "attention", on: this.on.checked });
      if (answer.ok) return;
      this.on.checked = !this.on.checked;
      this.say.textContent = answer.error;
    }

    show(record) {
      const { snapshot, timings } = record;
      const layer = this.store.layer;
      const sums = Object.fromEntries(LANES.map((lane) => [lane, 0]));
      for (const { lane, mass } of snapshot.attention) sums[lane] += layer === null ? mass.reduce((sum, value) => sum + value, 0) / mass.length : mass[layer] ?? 0;
      const own = snapshot.attention.length ? Math.max(0, 1 - LANES.reduce((sum, lane) => sum + sums[lane], 0)) : 0;
      for (const lane of LANES) this.sums[lane].textContent = snapshot.attention.length && snapshot[lane] ? `${Math.round(100 * sums[lane])} %` : "";
      this.bar.hidden = !snapshot.attention.length;
      if (!snapshot.attention.length) {
        this.say.textContent = "Off. It reads a few queries of every layer again, in the clean pass only, and costs a little time with every chunk.";
        return;
      }
      this.parts({ ...sums, own });
      const cost = timings.attention ?? 0;
      this.say.textContent = `Of chunk ${record.chunk}, ${layer === null ? "all layers" : `layer ${layer}`}; the rest, ${Math.round(100 * own)} %, is the chunk itself. Costs ${cost.toFixed(1)} ms a chunk (${((100 * cost) / timings.total).toFixed(1)} %).`;
    }

    parts(shares) {
      const names = { sink: "sink", slow: "slow", fast: "fast", own: "this chunk" };
      if (!this.bar.children.length) for (const name of Object.keys(names)) this.bar.append(Object.assign(document.createElement("span"), { className: `mm-look-${name}` }));
      Object.keys(names).forEach((name, index) => {
        const part = this.bar.children[index];
        part.style.flexGrow = Math.max(0.0001, shares[name]);
        part.textContent = shares[name] > 0.1 ? `${names[name]} ${Math.round(100 * shares[name])} %` : "";
      });
    }

    reset() {
      this.on.checked = false;
    }
  };
})();
