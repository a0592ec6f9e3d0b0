// Draws a timeline: blocks, markers, notes, the locked past, the two playheads. Knows nothing of the server.
{
const NOMINAL = 8; // chunks that an open last block is counted as
const MEMORY_SAYS = { keep: "memory kept", recache: "memory re-cached", flush: "memory flushed but for the sink", reset: "memory reset" };
const MEMORY_SIGN = { recache: "re-cache", flush: "flush", reset: "reset" };
const MARK_SAYS = { seed: "Seed", memory: "Memory", pause: "Pause", loop: "Loop", end: "End" };

const make = (tag, className, text = "") => {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
};

class TimelineView {
  constructor(root, axis) {
    this.root = root;
    this.axis = axis;
    for (const name of ["marks", "track", "notes", "filmed", "after", "cursor", "gen", "shown", "tip", "ruler"])
      this[name] = root.querySelector(`.tl-${name}`);
    this.plan = { blocks: [], markers: [], end: null };
    this.generated = 0;
    this.selected = null; // {start} or {kind, chunk}
  }

  /** Everything again, from a plan of the server. Elements are kept by place, so focus and drags survive. */
  show(plan) {
    this.plan = plan;
    this.place();
  }

  stopOf(block) {
    return block.stop ?? Math.max(block.start + 2 * NOMINAL, this.axis.length);
  }

  /** Lays out blocks (by default those of the plan; a drag passes its preview). */
  place(blocks = this.plan.blocks, markers = this.plan.markers) {
    const last = blocks[blocks.length - 1];
    const planned = last ? last.stop ?? last.start + 2 * NOMINAL : 0;
    const marked = markers.reduce((most, mark) => Math.max(most, mark.chunk), 0);
    this.axis.extend(Math.max(planned, marked, this.generated) + NOMINAL);
    this.fill(this.track, blocks, (node, block, index) => this.block(node, block, index, blocks));
    this.fill(this.marks, markers, (node, mark) => this.mark(node, mark));
    const end = markers.find((mark) => mark.kind === "end");
    this.after.hidden = !end;
    if (end) this.after.style.left = `${this.axis.x(end.chunk)}px`;
    this.progress(this.generated);
  }

  fill(parent, items, draw) {
    while (parent.children.length > items.length) parent.lastElementChild.remove();
    items.forEach((item, index) => {
      let node = parent.children[index];
      if (!node) parent.append((node = document.createElement("div")));
      draw(node, item, index);
    });
  }

  block(node, block, index, blocks) {
    const stop = this.stopOf(block);
    const blend = Math.min(block.transition.chunks, stop - block.start);
    // A drag calls this for every block sixty times a second: touch only what has moved.
    const place = `${this.axis.scale} ${block.start} ${stop} ${blend}`;
    if (node.tlPlace !== place) {
      node.tlPlace = place;
      node.style.left = `${this.axis.x(block.start)}px`;
      node.style.width = `${this.axis.x(stop - block.start)}px`;
      node.style.setProperty("--tl-blend", `${this.axis.x(blend)}px`);
    }
    if (node.tlBlock === block && node.tlIndex === index && node.tlOf === blocks.length && node.tlPlan === this.plan) return this.mood(node, block);
    Object.assign(node, { tlBlock: block, tlIndex: index, tlOf: blocks.length, tlPlan: this.plan });
    node.className = "tl-block";
    node.tabIndex = 0;
    node.setAttribute("role", "option");
    node.style.setProperty("--c", cf.colorVar(block.caption));
    node.style.setProperty("--before", index ? cf.colorVar(blocks[index - 1].caption) : "transparent");
    node.classList.toggle("tl-open", block.stop === null);
    node.classList.toggle("tl-blends", block.transition.chunks > 0 && index > 0);
    const label = make("span", "tl-label");
    if (block.name) label.append(make("b", "", block.name));
    label.append(this.words(block));
    const sign = make("i", "tl-memory", index ? MEMORY_SIGN[block.memory] ?? "" : "");
    sign.title = MEMORY_SAYS[block.memory];
    node.replaceChildren(sign, label);
    if (index) node.append(make("i", "tl-edge tl-start"));
    if (index === blocks.length - 1 && block.stop !== null) node.append(make("i", "tl-edge tl-stop"));
    node.tlMood = null;
    this.mood(node, block);
    node.setAttribute("aria-label", this.says(block, index, blocks.length));
  }

  mood(node, block) {
    const chosen = this.selected?.start === block.start;
    const fixed = block.start < this.generated;
    const past = block.stop !== null && block.stop <= this.generated;
    const mood = `${chosen} ${fixed} ${past}`;
    if (node.tlMood === mood) return;
    node.tlMood = mood;
    node.setAttribute("aria-selected", String(chosen));
    node.classList.toggle("tl-chosen", chosen);
    node.classList.toggle("tl-fixed", fixed);
    node.classList.toggle("tl-past", past);
  }

  /** The prompt, its unknown words marked. */
  words(block) {
    const line = make("span", "tl-prompt");
    const unknown = new Set(block.unknown);
    for (const piece of block.caption.split(/([\p{L}\p{N}'-]+)/u)) {
      if (!unknown.has(piece.toLowerCase())) line.append(piece);
      else line.append(make("u", "tl-unknown", piece));
    }
    return line;
  }

  says(block, index, count) {
    const stop = block.stop === null ? "open end" : `to ${this.axis.clock(block.stop)}, chunks ${block.start} to ${block.stop}`;
    const way = !index ? "" : block.transition.chunks ? `, blends over ${block.transition.chunks} chunks` : ", cut";
    const memory = index ? `, ${MEMORY_SAYS[block.memory]}` : "";
    const unknown = block.unknown.length ? `, unknown words: ${block.unknown.join(", ")}` : "";
    const locked = block.start < this.generated ? ", generated" : "";
    return `Block ${index + 1} of ${count}: ${block.name ? block.name + ", " : ""}${block.caption}, from ${this.axis.clock(block.start)} ${stop}${way}${memory}${unknown}${locked}`;
  }

  mark(node, mark) {
    const text = {
      seed: () => `seed ${mark.seed}`,
      memory: () => Object.entries(mark.changes).map(([name, value]) => (name === "policy" ? value : `${name === "tau" ? "\u03c4" : name} ${value}`)).join(", "),
      pause: () => "pause",
      loop: () => `loop to ${this.axis.clock(mark.to)}`,
      end: () => "end",
    }[mark.kind]();
    const chosen = this.selected?.kind === mark.kind && this.selected.chunk === mark.chunk;
    node.tlMark = mark;
    node.className = `tl-mark tl-mark-${mark.kind}`;
    node.tabIndex = 0;
    node.setAttribute("role", "button");
    node.setAttribute("aria-pressed", String(chosen));
    node.setAttribute("aria-label", `Marker: ${text}, at ${this.axis.clock(mark.chunk)}, chunk ${mark.chunk}`);
    node.style.left = `${this.axis.x(mark.chunk)}px`;
    node.classList.toggle("tl-chosen", chosen);
    node.classList.toggle("tl-fixed", mark.chunk < this.generated);
    node.style.setProperty("--span", mark.kind === "loop" ? `${this.axis.x(mark.chunk - mark.to)}px` : "0px");
    if (node.textContent !== text) node.textContent = text;
  }

  choose(selected) {
    this.selected = selected;
    for (const node of this.track.children) this.mood(node, node.tlBlock);
    for (const node of this.marks.children) this.mark(node, node.tlMark);
  }
  node(selected) {
    if (!selected) return null;
    if (selected.kind) return [...this.marks.children].find((n) => n.tlMark.kind === selected.kind && n.tlMark.chunk === selected.chunk);
    return [...this.track.children].find((n) => n.tlBlock.start === selected.start);
  }

  /** `generated`: how many chunks exist; they are locked. */
  progress(generated) {
    const grew = generated !== this.generated;
    this.generated = generated;
    this.filmed.style.width = `${this.axis.x(generated)}px`;
    this.gen.hidden = generated === 0;
    this.gen.style.transform = `translateX(${this.axis.x(generated)}px)`;
    if (!grew) return;
    if (generated + NOMINAL / 2 > this.axis.length) return this.place();
    for (const node of this.track.children) this.mood(node, node.tlBlock);
  }

  playhead(seconds) {
    this.shown.hidden = seconds === null;
    if (seconds === null) return;
    const x = (seconds / this.axis.chunkSeconds) * this.axis.scale;
    this.shown.style.transform = `translateX(${x}px)`;
    this.shown.firstElementChild.textContent = cf.clock(seconds);
  }

  setCursor(chunk) {
    this.cursor.hidden = chunk === null;
    if (chunk !== null) this.cursor.style.transform = `translateX(${this.axis.x(chunk)}px)`;
    this.ruler.setAttribute("aria-valuemax", String(Math.round(this.axis.length)));
    this.ruler.setAttribute("aria-valuenow", String(chunk ?? 0));
    this.ruler.setAttribute("aria-valuetext", chunk === null ? "no cursor" : `${this.axis.clock(chunk)}, chunk ${chunk}`);
  }

  hint(chunk, text) {
    this.tip.hidden = chunk === null;
    if (chunk === null) return;
    this.tip.style.left = `${this.axis.x(chunk)}px`;
    this.tip.textContent = text;
  }

  /** Things that happened, by themselves or live: [{chunk, sign, text, bad}]. */
  remember(notes) {
    this.fill(this.notes, notes, (node, note) => {
      node.className = `tl-note${note.bad ? " tl-bad" : ""}`;
      node.tabIndex = 0;
      node.setAttribute("role", "img");
      node.title = `${note.text} (chunk ${note.chunk}, ${this.axis.clock(note.chunk)})`;
      node.setAttribute("aria-label", node.title);
      node.style.left = `${this.axis.x(note.chunk)}px`;
      if (node.textContent !== note.sign) node.textContent = note.sign;
    });
  }
}

cf.TimelineView = TimelineView;
}
