// Media Source Extensions, tamed: pushes chunks into a <video>, keeps a bounded stretch of the past, says how far ahead it is.
(() => {
  const KEEP = 120; // seconds kept on either side of what is shown; older ones can be fetched again
  const Source = window.MediaSource || window.ManagedMediaSource; // the second one is all that iPhones have
  const TYPES = { h264: 'video/mp4; codecs="avc1.42c01f"', vp9: 'video/mp4; codecs="vp09.00.31.08"' };

  cf.Feed = class {
    /** The codec to ask the server for, or null when this browser can not play chunks at all. */
    static codec() {
      if (!Source) return null;
      return Object.keys(TYPES).find((name) => Source.isTypeSupported(TYPES[name])) || null;
    }

    constructor(video) {
      this.video = video;
      this.queue = [];
      this.buffer = null;
      this.appendedTo = 0; // where the next append lands by itself ("sequence" mode)
      this.source = new Source();
      this.opened = new Promise((ready) => this.source.addEventListener("sourceopen", ready, { once: true }));
      if (window.ManagedMediaSource && this.source instanceof window.ManagedMediaSource) video.disableRemotePlayback = true;
      if (video.src) URL.revokeObjectURL(video.src);
      video.src = URL.createObjectURL(this.source);
    }

    /** One chunk: {bytes, mime, start, end}, seconds in the film. Any order, any place. */
    async push(chunk) {
      this.queue.push(chunk);
      await this.opened;
      if (!this.buffer && this.source.readyState === "open") {
        this.buffer = this.source.addSourceBuffer(chunk.mime);
        this.buffer.mode = "sequence";
        this.buffer.addEventListener("updateend", () => this.pump());
      }
      this.pump();
    }

    pump() {
      if (!this.buffer || this.buffer.updating || this.source.readyState === "closed") return;
      if (this.trim() || this.queue.length === 0) return;
      const chunk = this.queue[0];
      try {
        if (Math.abs(chunk.start - this.appendedTo) > 0.001) this.buffer.timestampOffset = chunk.start;
        this.buffer.appendBuffer(chunk.bytes);
        this.appendedTo = chunk.end;
        this.queue.shift();
      } catch (error) {
        if (error.name !== "QuotaExceededError" || !this.trim(KEEP / 8)) throw error;
      }
    }

    /** Removes what lies further than `keep` seconds from the picture; true when the buffer is busy with that. */
    trim(keep = KEEP) {
      const { buffered } = this.buffer;
      const now = this.video.currentTime;
      if (!buffered.length) return false;
      if (buffered.start(0) < now - keep - 5) {
        this.buffer.remove(0, now - keep);
        return true;
      }
      if (buffered.end(buffered.length - 1) > now + keep + 5) {
        this.buffer.remove(now + keep, Infinity);
        return true;
      }
      return false;
    }

    /** End (s) of the unbroken stretch that holds `time`, or null when the browser does not have that moment. */
    endAround(time = this.video.currentTime) {
      const { buffered } = this.video;
      for (let i = 0; i < buffered.length; i++) {
        if (buffered.start(i) - 0.05 <= time && time < buffered.end(i) + 0.05) return buffered.end(i);
      }
      return null;
    }

    /** Seconds that can be played from here without anything new. */
    ahead() {
      const end = this.endAround();
      return end === null ? 0 : Math.max(0, end - this.video.currentTime);
    }

    /** Whether all that came is in the buffer. */
    get idle() {
      return this.buffer !== null && !this.buffer.updating && this.queue.length === 0;
    }

    /** True while `time` is on its way into the buffer. */
    awaits(time) {
      return this.queue.some((chunk) => chunk.start <= time && time < chunk.end);
    }
  };
})();
