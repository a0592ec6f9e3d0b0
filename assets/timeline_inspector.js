// The strip under the track: what is selected, and the fields that change it. Sends edits as plain operations.
{
const FIELD = "input, textarea, select";

class TimelineInspector {
  /** `edit(operation)` sends one, `live(parts)` a prompt that holds from the next chunk on; `axis` says times; `policies` are the names a memory marker may have. */
  constructor(root, axis, { edit, live, policies }) {
    Object.assign(this, { root, axis, edit, live });
    this.following = false; // the prompt being written is for what follows, as the block itself is generated
    this.cue = root.querySelector(".tl-cue");
    this.marker = root.querySelector(".tl-marker");
    this.parts = root.querySelector(".tl-parts");
    this.block = null;
    this.mark = null;
    for (const policy of policies) this.marker.elements.policy.add(new Option(policy, policy));
    this.cue.addEventListener("change", (event) => this.changed(event.target));
    this.cue.addEventListener("submit", (event) => event.preventDefault());
    this.marker.addEventListener("change", () => this.markChanged());
    this.marker.addEventListener("submit", (event) => event.preventDefault());
    this.cue.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "TEXTAREA" || event.shiftKey) return;
      event.preventDefault();
      this.changed(event.target);
    });
    this.parts.addEventListener("click", (event) => {
      const row = event.target.closest("[data-remove]") && event.target.closest(".tl-part");
      if (row) row.remove(), this.sendParts();
    });
    this.parts.addEventListener("input", () => this.shares());
  }

  /** Shows a block (with its place), a marker, or nothing. What is being typed is not overwritten. */
  show({ block = null, index = 0, count = 0, mark = null, generated = 0 } = {}) {
    const other = this.block?.start !== block?.start || this.mark?.kind !== mark?.kind;
    if (other) this.following = false;
    this.block = block;
    this.mark = mark;
    this.root.dataset.inspect = block ? "cue" : mark ? "marker" : "none";
    if (block) this.showBlock(index, count, block.start < generated, other);
    if (mark) this.showMark(mark.chunk < generated);
  }

  showBlock(index, count, fixed, other) {
    const { block, cue } = this;
    const busy = !other && (this.following || this.parts.contains(document.activeElement));
    if (!busy) this.parts.replaceChildren(...block.parts.map((part) => this.part(part, block.parts.length > 1)));
    this.shares();
    this.parts.style.setProperty("--c", cf.colorVar(block.caption));
    const fields = cue.elements;
    const set = (field, value) => document.activeElement !== field && (field.value = value);
    set(fields.name, block.name);
    set(fields.transition, block.transition.chunks ? block.transition.method : "cut");
    set(fields.chunks, block.transition.chunks || 4);
    set(fields.memory, block.memory);
    cue.querySelector(".tl-over").hidden = block.transition.chunks === 0;
    for (const field of cue.querySelectorAll(FIELD)) field.disabled = fixed && field.name !== "name" && !(this.following && this.parts.contains(field));
    fields.transition.disabled = fields.chunks.disabled = fields.memory.disabled = fixed || index === 0;
    const stop = block.stop === null ? "open end" : `${this.axis.clock(block.stop)}, ${block.stop - block.start} chunks`;
    const facts = cue.querySelector(".tl-facts");
    facts.textContent = `${this.axis.clock(block.start)} \u2013 ${stop}`;
    const { unknown, subjects } = block;
    if (unknown.length || subjects.length) {
      const hint = document.createElement("b"); // one line has room for one of them
      hint.textContent = unknown.length ? `not known: ${unknown.join(", ")}` : "names nothing to show";
      hint.title = subjects.length ? `Name what to show: ${subjects.join(", ")}` : "";
      facts.append(" \u00b7 ", hint);
    }
    const can = (name, yes) => (cue.querySelector(`[data-do=${name}]`).disabled = !yes);
    can("earlier", !fixed && index > 0);
    can("later", !fixed && index + 1 < count);
    can("mix", !fixed && block.parts.length < 8);
    cue.querySelector("[data-do=mix]").hidden = fixed;
    cue.querySelector("[data-do=fork]").hidden = !fixed || this.following;
  }

  part(part, mixed) {
    const row = document.createElement("div");
    row.className = "tl-part";
    const text = document.createElement("textarea");
    text.rows = 1;
    text.value = part.prompt;
    text.name = "prompt";
    text.maxLength = 2000;
    text.setAttribute("aria-label", "Prompt of the block");
    row.append(text);
    if (!mixed) return row;
    const weight = Object.assign(document.createElement("input"), { type: "range", min: 0.05, max: 1, step: 0.05, name: "weight" });
    weight.value = part.weight;
    weight.setAttribute("aria-label", "Weight of this prompt");
    const share = document.createElement("output");
    const remove = Object.assign(document.createElement("button"), { type: "button", className: "tl-key", textContent: "\u2715", title: "Take this prompt out" });
    remove.dataset.remove = "";
    remove.setAttribute("aria-label", "Take this prompt out");
    row.append(weight, share, remove);
    return row;
  }

  shares() {
    const rows = [...this.parts.querySelectorAll(".tl-part")];
    const weights = rows.map((row) => Number(row.querySelector("[name=weight]")?.value ?? 1));
    const sum = weights.reduce((a, b) => a + b, 0);
    rows.forEach((row, i) => row.querySelector("output") && (row.querySelector("output").textContent = `${Math.round((100 * weights[i]) / sum)}%`));
  }

  /** Puts the caret into the prompt, all of it selected. */
  write() {
    const text = this.parts.querySelector("textarea");
    if (!text || text.disabled) return;
    text.focus();
    text.select();
  }

  /** The prompt of a block that is generated, for writing: sent, it holds from the next chunk on. */
  follow() {
    this.following = true;
    for (const field of this.parts.querySelectorAll(FIELD)) field.disabled = false;
    this.cue.querySelector("[data-do=fork]").hidden = true;
    this.write();
  }

  addPart() {
    const loudest = Math.max(...this.block.parts.map((part) => part.weight));
    const parts = [...this.block.parts.map((part) => ({ ...part, weight: part.weight / loudest })), { prompt: this.block.caption, weight: 1 }];
    this.parts.replaceChildren(...parts.map((part) => this.part(part, true)));
    this.shares();
    const texts = this.parts.querySelectorAll("textarea");
    texts[texts.length - 1].focus();
    texts[texts.length - 1].select();
  }

  changed(field) {
    if (!this.block) return;
    const cue = this.block.start;
    if (field.name === "prompt" || field.name === "weight") return this.sendParts();
    if (field.name === "name") return this.edit({ op: "rename", cue, name: field.value });
    if (field.name === "memory") return this.edit({ op: "change", cue, memory: field.value });
    const { transition, chunks } = this.cue.elements;
    const method = transition.value === "cut" ? this.block.transition.method : transition.value;
    const over = Math.min(64, Math.max(1, Math.round(Number(chunks.value) || 1)));
    this.edit({ op: "change", cue, transition: { chunks: transition.value === "cut" ? 0 : over, method } });
  }

  sendParts() {
    const parts = [...this.parts.querySelectorAll(".tl-part")].map((row) => ({
      prompt: row.querySelector("textarea").value,
      weight: Number(row.querySelector("[name=weight]")?.value ?? 1),
    }));
    if (parts.length === 1) parts[0].weight = 1;
    if (JSON.stringify(parts) === JSON.stringify(this.block.parts)) return;
    if (this.following) this.live(parts);
    else this.edit({ op: "change", cue: this.block.start, parts });
    this.following = false;
  }

  showMark(fixed) {
    const { mark, marker } = this;
    marker.querySelector(".tl-kind").textContent = mark.kind[0].toUpperCase() + mark.kind.slice(1);
    for (const label of marker.querySelectorAll("[data-for]")) label.hidden = label.dataset.for !== mark.kind;
    for (const field of marker.querySelectorAll(FIELD)) {
      field.disabled = fixed;
      if (document.activeElement !== field) field.value = mark[field.name] ?? mark.changes?.[field.name] ?? "";
    }
    marker.querySelector(".tl-facts").textContent = this.axis.clock(mark.chunk) + (fixed ? " \u00b7 has acted" : "");
  }

  markChanged() {
    const { mark, marker } = this;
    const { chunk, seed, policy, tau, to } = marker.elements;
    const place = Math.max(0, Math.round(Number(chunk.value) || 0));
    if (place !== mark.chunk) return this.edit({ op: "move_marker", kind: mark.kind, chunk: mark.chunk, to: place });
    const marks = {
      seed: () => ({ seed: Math.round(Number(seed.value) || 0) }),
      memory() {
        const { policy: _, tau: __, ...changes } = mark.changes;
        if (policy.value) changes.policy = policy.value;
        if (tau.value !== "") changes.tau = Number(tau.value);
        return { changes };
      },
      loop: () => ({ to: Math.round(Number(to.value) || 0) }),
    };
    if (marks[mark.kind]) this.edit({ op: "put_marker", marker: { kind: mark.kind, chunk: mark.chunk, ...marks[mark.kind]() } });
  }
}

cf.TimelineInspector = TimelineInspector;
}
