// A handle on a line of the surprisal row, moved up and down by pointer or keys: a threshold, kept as tau (1 minus surprisal).
// Knows nothing of the curve: it is told where a pointer stands on the scale.
(() => {
  const REST = 700; // ms without a key after which a value that was moved by keys holds

  cf.TauHandle = class {
    /**
     * `tauAt(clientY)`; `begin()`; `move(tau)`: shown, also when it goes back; `done(tau)`: it holds, and is another than before;
     * `end()`: let go, after `done`.
     */
    constructor(node, { tauAt, begin = () => {}, move, done = () => {}, end = () => {} }) {
      this.node = node;
      this.on = { tauAt, begin, move, done, end };
      this.before = null; // tau when it was taken; null: nobody moves it
      this.grabbed = false; // by a pointer
      node.addEventListener("pointerdown", (event) => this.grab(event));
      node.addEventListener("pointermove", (event) => {
        if (this.held && node.hasPointerCapture(event.pointerId)) this.to(tauAt(event.clientY));
      });
      node.addEventListener("pointerup", () => this.finish(true));
      node.addEventListener("pointercancel", () => this.finish(false));
      node.addEventListener("blur", () => this.finish(true));
      node.addEventListener("keydown", (event) => this.key(event));
    }

    get held() {
      return this.before !== null;
    }

    get tau() {
      return this.node.tau;
    }

    /** What it says. As a slider it is a threshold of surprisal: up and right raise both the value and the line. */
    label(tau) {
      this.node.tau = tau;
      this.node.ariaValueNow = (1 - tau).toFixed(4);
      this.node.ariaValueText = `tau ${tau.toFixed(4)}: promoted when surprisal is above ${(1 - tau).toFixed(4)}`;
      this.node.querySelector("b").textContent = cf.tau(tau).replace(/^0\./, ".");
    }

    begin() {
      if (this.held) return;
      this.before = this.tau;
      this.node.classList.add("mc-dragged");
      this.on.begin();
    }

    to(tau) {
      this.on.move(Math.round(tau * 10000) / 10000);
    }

    /** Let go; without `keep` it goes back to where it was. */
    finish(keep) {
      if (!this.held) return;
      const { before } = this;
      this.before = null;
      this.grabbed = false;
      this.node.classList.remove("mc-dragged");
      clearTimeout(this.timer);
      if (!keep) this.on.move(before);
      else if (this.tau !== before) this.on.done(this.tau);
      this.on.end();
    }

    grab(event) {
      if (event.button) return;
      this.node.setPointerCapture(event.pointerId);
      this.node.focus();
      this.begin();
      this.grabbed = true;
      event.preventDefault();
    }

    key(event) {
      // A tenth of the threshold at a time: what matters may lie at 0.05 or at 0.001.
      const step = Math.max(0.0002, (1 - this.tau) / 10);
      const by = { ArrowUp: -step, ArrowRight: -step, ArrowDown: step, ArrowLeft: step, PageUp: -10 * step, PageDown: 5 * step }[event.key];
      const end = { Home: 1, End: 0 }[event.key];
      if (event.key === "Escape") this.finish(false);
      else if (event.key === "Enter") this.finish(true);
      else if (by === undefined && end === undefined) return;
      else {
        this.begin();
        this.to(end ?? this.tau + by);
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.finish(true), REST);
      }
      event.preventDefault();
      event.stopPropagation();
    }
  };
})();
