// When to ask for the next chunk: as late as it still comes in time. What is made late can still follow a change of prompt.
(() => {
  const REMEMBERED = 40; // chunks: half a minute
  const UNCERTAIN = 8; // chunks after which what was seen says more than a guess
  const MARGIN = 0.05; // seconds

  cf.Pace = class {
    /** least: seconds of film in reserve at which to ask, at least. given: chunks that come without being asked for. */
    constructor(least, given = 0) {
      this.least = least;
      this.granted = given; // chunks below this may come
      this.asked = new Map(); // chunk: [moment of asking, seconds by which that was late]
      this.needs = []; // seconds that it took from when a chunk should have been asked for to when it was there
      this.looked = null; // moment of the last look
    }

    /**
     * Seconds of film in reserve that are enough: the slowest chunk of late still comes in time, and a bit more. The busier
     * the engine, the slower it fills the reserve again, and the next slow chunk may come before that.
     */
    enough(making, chunkSeconds) {
      const slowest = Math.max(0, ...this.needs);
      const mean = this.needs.reduce((sum, need) => sum + need, 0) / Math.max(1, this.needs.length);
      const guess = this.needs.length < UNCERTAIN ? 2 * making + 0.15 : making;
      const more = (slowest - mean) * Math.min(1, mean / chunkSeconds) ** 2 + MARGIN;
      return Math.min(2 * chunkSeconds, Math.max(this.least, guess, slowest + more));
    }

    /**
     * The number up to which chunks may come now, or null: nothing to ask.
     * unseen: seconds of film. making: seconds that a chunk takes until it is here, as a rule; 0 if one waits at the server.
     */
    wants(film, unseen, making = 0) {
      const now = performance.now() / 1000;
      const since = now - (this.looked ?? now);
      this.looked = now;
      const reserve = unseen + Math.max(0, this.granted - film.length) * film.chunkSeconds; // what is on its way counts
      const short = this.enough(making, film.chunkSeconds) - reserve;
      if (short <= 0) return null;
      this.asked.set(this.granted, [now, Math.min(short, since)]);
      this.granted += 1;
      return this.granted;
    }

    came(chunk) {
      const asked = this.asked.get(chunk);
      if (!asked) return;
      this.asked.delete(chunk);
      this.needs.push(performance.now() / 1000 - asked[0] + asked[1]);
      if (this.needs.length > REMEMBERED) this.needs.shift();
    }

    /** The request did not reach the server. */
    again() {
      this.granted -= 1;
      this.asked.delete(this.granted);
    }

    /** The film rests: how long the chunks take that are on their way says nothing. */
    rest() {
      this.asked.clear();
      this.looked = null;
    }
  };
})();
