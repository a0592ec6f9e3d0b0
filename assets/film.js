// What exists of the film: an index of its chunks by time. Knows nothing of video or DOM.
(() => {
  cf.Film = class {
    constructor(fps = 16, chunkFrames = 12) {
      this.chunks = []; // {chunk, start, end, prompt, color, seed}, seconds
      this.end = 0;
      this.fps = fps;
      this.chunkSeconds = chunkFrames / fps;
      this.finished = false; // nothing will be added any more, though what there is may be watched to its end
      this.shownTo = -1; // the last chunk that came to the screen
    }

    get length() {
      return this.chunks.length;
    }

    add({ chunk, start, end, prompt, color, seed }) {
      this.chunks.push({ chunk, start, end, prompt, color, seed });
      this.end = end;
    }

    /** Index of the chunk that is on screen at `time`, -1 when there is none. */
    at(time) {
      let low = 0;
      let high = this.chunks.length - 1;
      if (high < 0) return -1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.chunks[middle].start <= time + 1e-4) low = middle;
        else high = middle - 1;
      }
      return low;
    }

    /** When chunk number `chunk` starts, or will start. */
    startOf(chunk) {
      return this.chunks[chunk]?.start ?? this.end + (chunk - this.chunks.length) * this.chunkSeconds;
    }

    /** A time within the film, in the middle of picture number `picture`. */
    picture(picture) {
      return this.clamp((picture + 0.5) / this.fps);
    }

    pictureAt(time) {
      return Math.floor(time * this.fps + 1e-3);
    }

    clamp(time) {
      return Math.min(Math.max(0, time), this.end - 0.5 / this.fps);
    }

    /** Stretches of one prompt: [{color, start, end}]. */
    stretches() {
      const parts = [];
      for (const chunk of this.chunks) {
        const last = parts[parts.length - 1];
        if (last && last.color === chunk.color) last.end = chunk.end;
        else parts.push({ color: chunk.color, start: chunk.start, end: chunk.end });
      }
      return parts;
    }
  };
})();
