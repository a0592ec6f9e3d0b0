// The three lanes: a small picture in every slot, with what is known of it. Entries keep their element while they stay in a lane, so what
// happens is seen: a promotion flies from fast to slow memory, what is evicted drops out, the rest moves up.
(() => {
  const LANES = ["sink", "slow", "fast"];
  const GLIDE = { duration: 420, easing: "cubic-bezier(0.2, 0.7, 0.2, 1)" };
  const PIN = '<svg class="mm-pin" viewBox="0 0 12 12" aria-hidden="true"><path d="M4 1h4l-.5 3.500L9.500 7H6.600L6 11.500 5.400 7H2.500l2-2.500z"></path></svg>';
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  const seconds = (value) => (value < 99.95 ? `${value.toFixed(1)}s` : cf.clock(value).replace(/\..*/, ""));
  const ago = (value) => `\u2212${value < 99.5 ? `${Math.round(value)}s` : value < 3570 ? `${Math.round(value / 60)}m` : `${Math.round(value / 3600)}h`}`;

  cf.MemoryLanes = class {
    /** `open(entry, cell)`: an entry was chosen; `act(kind, entry)`: P or Delete on it. */
    constructor(root, { open, act }) {
      this.box = root.querySelector(".mm-lanes");
      this.store = cf.memory;
      this.cells = new Map(); // "lane:latent" -> element
      this.lanes = Object.fromEntries(
        LANES.map((lane) => {
          const section = root.querySelector(`.mm-lane[data-lane=${lane}]`);
          return [lane, { section, slots: section.querySelector(".mm-slots"), count: section.querySelector(".mm-count") }];
        }),
      );
      this.box.addEventListener("click", (event) => {
        const cell = event.target.closest(".mm-cell[data-latent]");
        if (cell) open(cell.entry, cell);
      });
      this.box.addEventListener("keydown", (event) => this.key(event, act));
      new ResizeObserver(() => this.fit()).observe(this.box);
    }

    /** Slots in a row, so that a picture is neither a speck nor a poster. (Gradio drops container queries from style sheets.) */
    fit() {
      const width = this.box.clientWidth;
      this.box.style.setProperty("--cols", width < 345 ? 4 : width < 600 ? 6 : 12);
    }

    /** Shows a record as all layers have it, or one; `glide`: it follows on what is shown. */
    show(record, layer, glide) {
      const before = new Map([...this.cells].map(([key, cell]) => [key, cell.getBoundingClientRect()]));
      const all = Object.fromEntries(LANES.map((lane) => [lane, this.store.entries(record.snapshot, lane, layer)]));
      const kept = Object.fromEntries(LANES.map((lane) => [lane, this.most(all[lane], record.snapshot[lane])]));
      const gone = this.drop(new Set(LANES.flatMap((lane) => kept[lane].map((entry) => `${lane}:${entry.latent}`))));
      const fresh = [];
      for (const lane of LANES) {
        kept[lane].forEach((entry, index) => {
          const key = `${lane}:${entry.latent}`;
          let cell = this.cells.get(key);
          if (!cell) {
            cell = this.cell(entry);
            this.cells.set(key, cell);
            fresh.push([key, cell]);
          }
          this.fill(cell, entry, record, layer);
          this.place(lane, index, cell);
        });
        this.pad(lane, kept[lane].length, record.snapshot[lane]);
        this.lanes[lane].section.hidden = record.snapshot[lane] === 0;
        const say = this.says(lane, kept[lane], all[lane], record.snapshot);
        if (this.lanes[lane].count.textContent !== say) this.lanes[lane].count.textContent = say;
      }
      this.roving();
      if (glide) this.move(before, gone, fresh);
    }

    /** Takes out all cells but those of `keys`; returns them. */
    drop(keys) {
      const gone = new Map([...this.cells].filter(([key]) => !keys.has(key)));
      for (const [key, cell] of gone) {
        this.cells.delete(key);
        cell.remove();
      }
      return gone;
    }

    /** Where layers decide alone they hold more latent frames than there are slots: those that most layers hold, and pinned ones. */
    most(entries, size) {
      if (entries.length <= size) return entries;
      const weight = (entry) => (entry.pinned ? 1e6 : 0) + entry.agreement;
      const chosen = [...entries].sort((a, b) => weight(b) - weight(a) || b.latent - a.latent).slice(0, size);
      return chosen.sort((a, b) => a.latent - b.latent);
    }
    says(lane, entries, all, snapshot) {
      if (entries.length < all.length) return `${entries.length} that most layers hold, of ${all.length}`;
      if (lane !== "slow") return `${snapshot[lane]}`;
      return `${entries.filter((entry) => entry.promoted_at !== null).length} promoted of ${snapshot.slow}`;
    }

    /** Empty lanes of these sizes, before anything plays. */
    empty(sizes) {
      this.cells.clear();
      for (const lane of LANES) {
        this.lanes[lane].slots.replaceChildren();
        this.pad(lane, 0, sizes[lane]);
        this.lanes[lane].count.textContent = `${sizes[lane]}`;
        this.lanes[lane].section.hidden = sizes[lane] === 0;
      }
    }

    place(lane, index, cell) {
      const { slots } = this.lanes[lane];
      if (slots.children[index] !== cell) slots.insertBefore(cell, slots.children[index] ?? null);
    }

    /** Empty slots behind the entries, up to the size of the lane. */
    pad(lane, held, size) {
      const { slots } = this.lanes[lane];
      while (slots.children.length > Math.max(held, size)) slots.lastElementChild.remove(); // blanks are behind
      while (slots.children.length < size) {
        const blank = document.createElement("span");
        blank.className = "mm-cell mm-blank";
        blank.innerHTML = '<span class="mm-pic"></span><span class="mm-t">\u00a0</span><span class="mm-s"></span>'; // as high as a full one
        slots.append(blank);
      }
    }

    cell(entry) {
      const cell = document.createElement("button");
      cell.type = "button";
      cell.className = "mm-cell";
      cell.tabIndex = -1;
      cell.dataset.latent = entry.latent;
      cell.innerHTML = `<span class="mm-pic"><img alt="" decoding="sync" draggable="false"><i class="mm-att"></i>${PIN}</span><span class="mm-t"></span><span class="mm-a"></span><span class="mm-s"></span>`;
      const picture = this.store.pictures.get(entry.latent);
      if (picture) cell.querySelector("img").src = picture;
      else cell.querySelector("img").remove();
      return cell;
    }

    fill(cell, entry, record, layer) {
      const { snapshot } = record;
      cell.entry = entry;
      const time = this.store.timeOf(entry.latent);
      const own = entry.chunk === record.chunk;
      const line = own ? this.store.line(entry.chunk) : undefined;
      cell.classList.toggle("mm-plain", entry.lane === "slow" && entry.promoted_at === null);
      cell.classList.toggle("mm-pinned", entry.pinned);
      cell.classList.toggle("mm-own", own);
      cell.style.setProperty("--c", cf.colorVar(entry.prompt));
      cell.style.setProperty("--b", cf.brightness(entry.surprisal, snapshot.tau).toFixed(3));
      cell.style.setProperty("--agree", layer === null ? (entry.agreement / snapshot.layers).toFixed(3) : 1);
      const mass = this.mass(snapshot, entry, layer);
      cell.style.setProperty("--mass", mass === null ? 0 : mass.toFixed(4));
      cell.classList.toggle("mm-looked", mass !== null);
      const age = own ? "now" : ago(record.end - time);
      const split = layer === null && entry.agreement < snapshot.layers;
      const last = entry.surprisal !== null ? cf.short(entry.surprisal) : "";
      this.text(cell, ".mm-t", seconds(time));
      this.text(cell, ".mm-a", age);
      this.text(cell, ".mm-s", split ? `${last} ${entry.agreement}/${snapshot.layers}`.trim() : last);
      const says = [
        `Latent frame ${entry.latent} at ${cf.clock(time)}`,
        `${entry.lane === "sink" ? "attention sink" : `${entry.lane} memory`}, slot ${entry.slot}`,
        entry.surprisal !== null ? `surprisal ${entry.surprisal.toFixed(3)} at promotion` : entry.lane === "slow" ? "not promoted, makes room first" : null,
        own ? "of this chunk" : `${Math.round(record.end - time)} seconds old`,
        `prompt: ${entry.prompt}`,
        split ? `held by ${entry.agreement} of ${snapshot.layers} layers` : null,
        entry.pinned ? "pinned" : null,
        mass === null ? null : `${(100 * mass).toFixed(1)} percent of attention`,
        line?.promoted.includes(entry.latent) && entry.lane === "fast" ? "promoted with this chunk" : null,
      ];
      cell.setAttribute("aria-label", says.filter(Boolean).join(", "));
    }

    text(cell, part, text) {
      const node = cell.querySelector(part);
      if (node.textContent !== text) node.textContent = text;
    }

    /** Share of attention of an entry: the layers' mean, or one layer's; null if it was not watched or not read. */
    mass(snapshot, entry, layer) {
      const seen = snapshot.attention?.find((view) => view.lane === entry.lane && view.latent === entry.latent);
      if (!seen) return null;
      return layer === null ? seen.mass.reduce((sum, value) => sum + value, 0) / seen.mass.length : seen.mass[layer] ?? 0;
    }

    // Motion

    move(before, gone, fresh) {
      if (still.matches) {
        for (const [, cell] of fresh) this.flash(cell);
        return;
      }
      const made = new Set(fresh.map(([key]) => key));
      for (const [key, cell] of this.cells) {
        const from = before.get(key);
        if (!from || made.has(key)) continue;
        const to = cell.getBoundingClientRect();
        const [x, y] = [from.left - to.left, from.top - to.top];
        // A step to another row would fly across the lane: fade instead.
        if (Math.abs(y) > 2) cell.animate([{ opacity: 0.1 }, { opacity: 1 }], GLIDE);
        else if (Math.abs(x) > 1) cell.animate([{ transform: `translateX(${x}px)` }, { transform: "none" }], GLIDE);
      }
      for (const [key, cell] of fresh) this.enter(key, cell);
      for (const [key, cell] of gone) this.leave(key, cell, before.get(key));
    }

    enter(key, cell) {
      const [lane, latent] = key.split(":");
      const source = lane === "slow" && cell.entry.promoted_at !== null && this.cells.get(`fast:${latent}`);
      if (!source) {
        cell.animate([{ opacity: 0, transform: "translateX(14px)" }, { opacity: 1, transform: "none" }], GLIDE);
        return;
      }
      const [from, to] = [source.getBoundingClientRect(), cell.getBoundingClientRect()];
      const way = `translate(${from.left - to.left}px, ${from.top - to.top}px)`;
      cell.classList.add("mm-flying");
      const flight = cell.animate([{ transform: way }, { transform: `${way} scale(1.12)`, offset: 0.2 }, { transform: "none" }], { ...GLIDE, duration: 720 });
      flight.onfinish = flight.oncancel = () => cell.classList.remove("mm-flying");
      this.flash(source);
      this.flash(cell);
    }

    leave(key, cell, from) {
      if (!from || !from.width) return;
      const box = this.box.getBoundingClientRect();
      const [lane] = key.split(":");
      cell.classList.add("mm-leaving");
      cell.removeAttribute("data-latent");
      cell.setAttribute("aria-hidden", "true");
      cell.style.cssText += `;left:${from.left - box.left}px;top:${from.top - box.top}px;width:${from.width}px`;
      this.box.append(cell);
      const way = lane === "fast" ? "translateX(-14px)" : "translateY(16px) scale(0.86)";
      const exit = cell.animate([{ opacity: 1 }, { opacity: 0, transform: way }], { ...GLIDE, duration: lane === "fast" ? 300 : 560 });
      exit.onfinish = exit.oncancel = () => cell.remove();
    }

    flash(cell) {
      cell.classList.add("mm-fresh");
      setTimeout(() => cell.classList.remove("mm-fresh"), 900);
    }

    // Keys: one cell is reached by Tab, arrows go on from there.

    all() {
      return LANES.flatMap((lane) => [...this.lanes[lane].slots.querySelectorAll(".mm-cell[data-latent]")]);
    }
    roving() {
      const cells = this.all();
      if (cells.length && !cells.some((cell) => cell.tabIndex === 0)) cells[0].tabIndex = 0;
    }
    focus(cell) {
      for (const other of this.all()) other.tabIndex = other === cell ? 0 : -1;
      cell.focus();
    }

    key(event, act) {
      const cell = event.target.closest(".mm-cell[data-latent]");
      if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "p" || event.key === "Delete") {
        event.preventDefault();
        return act(event.key === "p" ? (cell.entry.pinned ? "unpin" : "pin") : "evict", cell.entry);
      }
      const cells = this.all();
      const at = cells.indexOf(cell);
      const to = { ArrowLeft: cells[at - 1], ArrowRight: cells[at + 1], Home: cells[0], End: cells[cells.length - 1] }[event.key] ?? this.beside(cell, cells, event.key);
      if (!to) return;
      event.preventDefault();
      this.focus(to);
    }

    beside(cell, cells, key) {
      const sign = { ArrowUp: -1, ArrowDown: 1 }[key];
      if (!sign) return undefined;
      const own = cell.getBoundingClientRect();
      const rows = cells.map((other) => [other, other.getBoundingClientRect()]).filter(([, box]) => sign * (box.top - own.top) > 4);
      rows.sort(([, a], [, b]) => sign * (a.top - b.top) || Math.abs(a.left - own.left) - Math.abs(b.left - own.left));
      return rows[0]?.[0];
    }
  };
})();
