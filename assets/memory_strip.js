// The strip of all chunks, the time machine: brightness is surprisal, the line below the prompt. Scrubbing it scrubs the film.
(() => {
  const COLORS = 10;

  cf.MemoryStrip = class {
    /** `seen()`: whether anybody looks. */
    constructor(root, seen) {
      this.root = root;
      this.seen = seen;
      this.store = cf.memory;
      this.box = root.querySelector(".mm-strip");
      this.canvas = this.box.querySelector("canvas");
      this.mark = root.querySelector(".mm-strip-head");
      this.box.addEventListener("pointerdown", (event) => {
        this.box.setPointerCapture(event.pointerId);
        this.to(event);
      });
      this.box.addEventListener("pointermove", (event) => this.box.hasPointerCapture(event.pointerId) && this.to(event));
      this.box.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.draw()).observe(this.box);
      new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-cf-theme"] });
    }

    get count() {
      return (this.store.newest?.chunk ?? -1) + 1;
    }

    draw() {
      if (!this.seen()) return;
      const { count, canvas } = this;
      const [width, height] = [this.box.clientWidth, this.box.clientHeight];
      const density = window.devicePixelRatio || 1;
      Object.assign(canvas, { width: Math.round(width * density), height: Math.round(height * density) });
      const pen = canvas.getContext("2d");
      pen.scale(density, density);
      const style = getComputedStyle(this.root);
      const ink = style.getPropertyValue("--cf-text");
      const colors = Array.from({ length: COLORS }, (_, number) => style.getPropertyValue(`--cf-p${number}`));
      this.store.lines.forEach((line, index) => {
        const next = this.store.lines[index + 1]?.chunk ?? count;
        const [x, wide] = [(width * line.chunk) / count, (width * (next - line.chunk)) / count];
        pen.fillStyle = ink;
        pen.globalAlpha = 0.07 + 0.8 * cf.brightness(line.surprisal, line.tau);
        pen.fillRect(x, 0, Math.max(0.5, wide - (wide > 3 ? 1 : 0)), height - 4);
        pen.globalAlpha = 1;
        pen.fillStyle = colors[cf.color(line.prompt)];
        pen.fillRect(x, height - 3, wide + 0.5, 3);
      });
      this.head();
    }

    head() {
      const { count } = this;
      const { shown, current, live } = this.store;
      this.mark.hidden = shown < 0;
      this.mark.style.left = `${(100 * (shown + 0.5)) / Math.max(1, count)}%`;
      this.box.ariaValueMax = String(Math.max(0, count - 1));
      this.box.ariaValueNow = String(Math.max(0, shown));
      this.box.ariaValueText = current ? `chunk ${shown}, ${cf.clock(current.start)}${live ? ", live" : ""}` : "nothing yet";
      const kept = !current || current.chunk === shown;
      this.root.querySelector(".mm-when").title = kept ? "" : `Older snapshots are thinned out; this is the memory after chunk ${current.chunk}`;
    }

    to(event) {
      const box = this.box.getBoundingClientRect();
      const chunk = Math.floor((this.count * (event.clientX - box.left)) / box.width);
      if (this.count) this.store.seek(Math.min(this.count - 1, Math.max(0, chunk)));
    }

    key(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageUp: 10, PageDown: -10 }[event.key];
      if (by && this.store.shown >= 0) this.store.seek(Math.min(this.count - 1, Math.max(0, this.store.shown + by)));
      else if (event.key === "Home") this.store.seek(0);
      else if (event.key === "End") cf.emit("live");
      else return;
      event.preventDefault();
    }
  };
})();
