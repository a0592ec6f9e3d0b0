// Surprisal over time: a bar and a curve per chunk, the line of tau that is dragged, dots where something was promoted, rings where
// another tau would have done so. It stands under the timeline and follows its axis (`cf:axis`); without one it has its own.
(() => {
  const STEPS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1, 2]; // ceilings of the scale, and its grid
  const PAD = 26; // pixels above the highest bar, where the head stands
  const SVG = "http://www.w3.org/2000/svg";

  cf.MemoryCurve = class {
    /** `tau(value)`: a new tau was set; `seek(chunk)`; `preview(tau or null)`: ghosts of this tau are wanted. */
    constructor(root, { tau, seek, preview }) {
      this.root = root;
      this.store = cf.memory;
      this.on = { tau, seek, preview };
      this.box = root.querySelector(".mc-box");
      this.canvas = root.querySelector("canvas");
      this.dots = root.querySelector("svg");
      this.tip = root.querySelector(".mc-tip");
      this.tau = 0.95;
      this.what = null; // the tau of the ghosts
      this.ceiling = 0.1;
      this.layer = null;
      this.ahead = null; // chunk from which a new tau holds
      this.axis = null;
      this.handles();
      cf.on("axis", (axis) => {
        this.axis = axis;
        this.draw();
      });
      cf.emit("axis-please");
      new ResizeObserver(() => this.draw()).observe(this.box);
      new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-cf-theme"] });
      this.points();
    }

    /** The line of tau, and the one of the ghosts; while tau is moved, the ghosts are what the new one would have kept. */
    handles() {
      const tauAt = (clientY) => {
        const box = this.box.getBoundingClientRect();
        return 1 - Math.min(this.ceiling, Math.max(0, this.surprisalAt(clientY - box.top, box.height)));
      };
      let before = null; // tau of the ghosts
      this.handle = new cf.TauHandle(this.root.querySelector(".mc-tau"), {
        tauAt,
        begin: () => (before = this.what),
        move: (tau) => {
          this.setTau(tau);
          this.setWhat(this.tau);
        },
        done: this.on.tau,
        end: () => this.setWhat(before),
      });
      this.ghost = new cf.TauHandle(this.root.querySelector(".mc-ghost"), { tauAt, move: (tau) => this.setWhat(tau) });
    }

    get held() {
      return this.handle.held || this.ghost.held;
    }

    // Geometry

    view() {
      const box = this.box.getBoundingClientRect();
      const width = Math.max(1, box.width);
      const height = Math.max(1, box.height);
      if (this.axis) return { ...this.axis, shift: this.axis.left - (box.left + window.scrollX), width, height };
      const length = Math.max(40, (this.store.newest?.chunk ?? 0) + 8);
      const scale = Math.max(width / length, 4);
      const origin = Math.max(0, (this.store.shown < 0 ? 0 : this.store.shown) - (0.7 * width) / scale);
      return { origin: Math.min(origin, Math.max(0, length - width / scale)), scale, shift: 0, width, height };
    }
    /** A square-root scale: most of a film happens near the threshold, and a cut is ten times as high. */
    y(surprisal, height) {
      return height - 1 - (height - PAD) * Math.sqrt(Math.min(1.02, Math.max(0, surprisal) / this.ceiling));
    }
    surprisalAt(y, height) {
      return this.ceiling * (Math.max(0, height - 1 - y) / (height - PAD)) ** 2;
    }

    // State

    setTau(value) {
      this.tau = Math.min(1, Math.max(0, value));
      this.handle.label(this.tau);
      this.draw();
    }
    setWhat(value) {
      this.what = value === null ? null : Math.min(1, Math.max(0, value));
      this.ghost.node.hidden = this.what === null;
      if (this.what !== null) this.ghost.label(this.what);
      this.on.preview(this.what);
      this.draw();
    }

    // Drawing

    draw() {
      if (this.waiting || !this.box.isConnected) return;
      this.waiting = requestAnimationFrame(() => {
        this.waiting = 0;
        if (this.box.offsetParent) this.paint();
      });
    }

    paint() {
      const view = this.view();
      const { width, height } = view;
      const from = Math.floor(view.origin - view.shift / view.scale) - 1;
      const lines = this.store.between(from, from + Math.ceil(width / view.scale) + 2);
      this.rise(lines);
      const x = (chunk) => (chunk - view.origin) * view.scale + view.shift;
      const pen = this.pen(width, height);
      const style = getComputedStyle(this.root);
      this.grid(pen, view, style);
      this.bars(pen, lines, x, view, style);
      this.threshold(pen, lines, x, view, style);
      this.marks(lines, x, view);
      const within = (tau) => `${Math.min(height - 9, Math.max(9, this.y(1 - tau, height)))}px`; // it can always be grabbed
      this.handle.node.style.top = within(this.tau);
      if (this.what !== null) this.ghost.node.style.top = within(this.what);
      const near = this.what !== null && Math.abs(this.y(1 - this.tau, height) - this.y(1 - this.what, height)) < 18;
      this.ghost.node.classList.toggle("mc-aside", near);
    }

    pen(width, height) {
      const density = window.devicePixelRatio || 1;
      const [w, h] = [Math.round(width * density), Math.round(height * density)];
      if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
      const pen = this.canvas.getContext("2d");
      pen.setTransform(density, 0, 0, density, 0, 0);
      pen.clearRect(0, 0, width, height);
      return pen;
    }

    /** A ceiling that fits what is in view and the threshold; it comes down only when there is much air. */
    rise(lines) {
      const highest = Math.max(1.6 * (1 - this.tau), 1.6 * (1 - (this.what ?? 1)), ...lines.map((line) => line.surprisal ?? 0), 0.001);
      const wanted = STEPS.find((step) => step >= highest * 1.05) ?? 2;
      if (this.handle.grabbed || this.ghost.grabbed) return; // the scale must not move under the pointer
      if (wanted > this.ceiling || wanted < this.ceiling / 2.1) this.ceiling = wanted;
    }

    grid(pen, { width, height }, style) {
      pen.font = `10.5px ${style.fontFamily}`;
      pen.textBaseline = "bottom";
      let above = -99;
      for (const step of STEPS.filter((one) => one <= this.ceiling).reverse()) {
        const y = Math.round(this.y(step, height)) + 0.5;
        if (y - above < 15 || y < PAD + 11 || y > height - 12) continue;
        above = y;
        pen.fillStyle = style.getPropertyValue("--cf-line");
        pen.fillRect(0, y - 0.5, width, 1);
        pen.fillStyle = style.getPropertyValue("--cf-faint");
        pen.fillText(cf.short(step, step < 0.01 ? 3 : 2), 6, y - 1);
      }
    }

    bars(pen, lines, x, { scale, height }, style) {
      pen.fillStyle = style.getPropertyValue("--cf-text");
      const wide = scale > 6 ? scale - 2 : Math.max(0.75, scale * 0.8);
      for (const line of lines) {
        if (line.surprisal === null) continue;
        pen.globalAlpha = 0.1 + 0.5 * cf.brightness(line.surprisal, line.tau);
        const top = this.y(line.surprisal, height);
        pen.fillRect(x(line.chunk) + (scale - wide) / 2, top, wide, height - top);
      }
      pen.globalAlpha = 0.85;
      pen.strokeStyle = style.getPropertyValue("--cf-text");
      pen.lineWidth = 1.25;
      pen.lineJoin = "round";
      pen.beginPath();
      let open = false;
      for (const line of lines) {
        if (line.surprisal === null) open = false;
        else {
          pen[open ? "lineTo" : "moveTo"](x(line.chunk) + scale / 2, this.y(line.surprisal, height));
          open = true;
        }
      }
      pen.stroke();
      pen.globalAlpha = 1;
    }

    /** The tau that was in force at every chunk; the handle's line goes on from there. */
    threshold(pen, lines, x, { scale, height }, style) {
      pen.strokeStyle = style.getPropertyValue("--cf-dim");
      pen.lineWidth = 1;
      pen.beginPath();
      for (const line of lines) {
        if (line.gate !== "sim") continue;
        const y = Math.round(this.y(1 - line.tau, height)) + 0.5;
        pen.moveTo(x(line.chunk), y);
        pen.lineTo(x(line.chunk) + scale, y);
      }
      pen.stroke();
    }

    marks(lines, x, { scale, height }) {
      const wanted = [];
      const ghosts = this.what === null ? null : this.store.whatIf(this.what, Infinity, this.layer);
      for (const line of lines) {
        const at = { x: x(line.chunk) + scale / 2, y: this.y(line.surprisal ?? 0, height), chunk: line.chunk, line };
        if (line.promoted.length) wanted.push({ ...at, kind: "promoted" });
        if (ghosts?.chunks.has(line.chunk)) wanted.push({ ...at, kind: "would", some: ghosts.chunks.get(line.chunk) < ghosts.layers && this.layer === null });
      }
      while (this.dots.children.length > wanted.length) this.dots.lastElementChild.remove();
      while (this.dots.children.length < wanted.length) this.dots.append(document.createElementNS(SVG, "circle"));
      wanted.forEach((mark, index) => {
        const dot = this.dots.children[index];
        dot.setAttribute("class", `mc-${mark.kind}${mark.some ? " mc-some" : ""}`);
        dot.dataset.chunk = mark.chunk;
        dot.setAttribute("cx", mark.x.toFixed(1));
        dot.setAttribute("cy", mark.y.toFixed(1));
        dot.setAttribute("r", mark.kind === "would" ? 6 : Math.min(3.5, Math.max(1.8, scale / 3)));
        dot.style.setProperty("--c", cf.colorVar(mark.line.prompt));
      });
      const shown = this.root.querySelector(".mc-shown");
      shown.hidden = this.store.shown < 0;
      shown.style.cssText = `left:${x(this.store.shown).toFixed(1)}px;width:${Math.max(2, scale).toFixed(1)}px`;
      const from = this.root.querySelector(".mc-from");
      from.hidden = this.ahead === null || (this.store.newest?.chunk ?? -1) >= this.ahead;
      if (!from.hidden) from.style.left = `${x(this.ahead).toFixed(1)}px`;
    }

    // Pointer and keys

    chunkAt(clientX) {
      const view = this.view();
      const left = this.box.getBoundingClientRect().left;
      return Math.floor((clientX - left - view.shift) / view.scale + view.origin);
    }

    points() {
      this.box.addEventListener("click", (event) => {
        if (event.target.closest(".mc-handle")) return;
        const line = this.store.line(this.chunkAt(event.clientX));
        if (line) this.on.seek(line.chunk);
      });
      this.box.addEventListener("pointermove", (event) => this.tell(event));
      this.box.addEventListener("pointerleave", () => (this.tip.hidden = true));
    }

    tell(event) {
      const line = event.target.closest?.(".mc-handle") ? undefined : this.store.line(this.chunkAt(event.clientX));
      this.tip.hidden = !line;
      if (!line) return;
      const range = new Set(line.similarities).size > 1 ? `, layers ${cf.short(1 - Math.max(...line.similarities))} to ${cf.short(1 - Math.min(...line.similarities))}` : "";
      const done = line.promoted.length ? ", promoted" : line.eligible ? "" : ", could not be promoted yet";
      this.tip.textContent = `chunk ${line.chunk}, ${cf.clock(line.start)}: surprisal ${line.surprisal === null ? "not computed" : line.surprisal.toFixed(3)}${range}${done}`;
      const left = event.clientX - this.box.getBoundingClientRect().left;
      this.tip.style.cssText = left > this.box.clientWidth / 2 ? `right:${this.box.clientWidth - left + 12}px` : `left:${left + 12}px`;
    }
  };
})();
