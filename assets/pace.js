// When to ask for the next chunk: as late as it still comes in time. What is made late can still follow a change of prompt.
(() => {
  cf.Pace = class {
    /** least: seconds of unseen video at which to ask, at least. */
    constructor(least) {
      this.least = least;
      this.granted = 0; // chunks below this may come
      this.askedAt = 0;
      this.delay = 0; // seconds between asking and having: the longest of late, fading
    }

    /**
     * The number up to which chunks may come now, or null: nothing to ask.
     * making: seconds that a chunk takes if none waits at the server; it is begun when it is asked for.
     */
    wants(film, unseen, making = 0) {
      const early = Math.max(this.least, 1.25 * Math.max(this.delay, making) + 0.15);
      if (unseen >= Math.min(2 * film.chunkSeconds, early) || film.length < this.granted) return null;
      this.granted = film.length + 1;
      this.askedAt = performance.now();
      return this.granted;
    }

    came(chunk) {
      if (chunk === this.granted - 1) this.delay = Math.max(0.9 * this.delay, (performance.now() - this.askedAt) / 1000);
    }

    /** The request did not reach the server. */
    again() {
      this.granted -= 1;
    }
  };
})();
