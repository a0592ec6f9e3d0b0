// What the player shows around the picture: caption, scrub bar, status line, buttons. Reads a state, changes only the DOM.
(() => {
  const STAGES = ["text", "denoise", "context", "decode", "memory", "encode"];
  const MODES = {
    idle: "Play", starting: "Pause", playing: "Pause", paused: "Resume", stopped: "Play again", failed: "Play again",
  };

  cf.PlayerView = class {
    constructor(root) {
      this.root = root;
      this.$ = (selector) => root.querySelector(selector);
      this.status = Object.fromEntries([...root.querySelectorAll("[data-s]")].map((cell) => [cell.dataset.s, cell]));
      const room = (width) => (width > 1020 ? "much" : width > 860 ? "some" : "little"); // for the status line
      new ResizeObserver(([entry]) => (root.dataset.room = room(entry.contentRect.width))).observe(root);
      const bar = this.$(".cf-bar");
      this.bars = STAGES.map((stage) => {
        const part = bar.appendChild(document.createElement("i"));
        part.dataset.stage = stage;
        return part;
      });
    }

    mode(mode, film) {
      this.root.dataset.mode = mode;
      const running = mode === "starting" || mode === "playing" || mode === "paused";
      const key = this.$(".cf-main");
      key.ariaLabel = MODES[mode];
      key.title = `${MODES[mode]} (Space)`;
      this.enable("stop", running);
      for (const name of ["back", "forth", "frame", "save"]) this.enable(name, film.length > 0);
    }

    /** Keeps the last picture on the screen until a new film has its first. */
    hold(film) {
      if (film.length) this.$("video").poster = this.still().toDataURL("image/jpeg", 0.9);
      this.root.toggleAttribute("data-again", film.length > 0);
    }

    still() {
      const video = this.$("video");
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      return canvas;
    }

    /** A new film begins. */
    clear(film) {
      this.alert(null);
      this.next(null);
      this.caption(null);
      this.waiting(false);
      this.queue(null);
      this.live(0);
      this.track(film);
      this.position(0, film, -1);
    }

    busy(name, on) {
      this.enable(name, !on);
      this.$(`[data-do=${name}]`).classList.toggle("cf-busy", on);
    }

    enable(name, on) {
      this.$(`[data-do=${name}]`).disabled = !on;
    }

    caption(chunk) {
      const box = this.$(".cf-caption");
      box.hidden = !chunk;
      if (!chunk) return;
      document.documentElement.style.setProperty("--cf-now", `var(--cf-p${chunk.color})`);
      const text = box.querySelector("span");
      if (text.textContent !== chunk.prompt) text.textContent = chunk.prompt;
    }

    /** The queued change: null or {prompt, color, chunk, seconds}. */
    next(change) {
      const box = this.$(".cf-next");
      box.hidden = !change;
      if (!change) return;
      box.style.setProperty("--cf-next", `var(--cf-p${change.color})`);
      const text = `applies at chunk ${change.chunk}` + (change.seconds > 0 ? ` in ${change.seconds.toFixed(1)} s` : "");
      const span = box.querySelector("span");
      if (span.textContent !== text) span.textContent = text;
    }

    alert(message) {
      this.$(".cf-alert").hidden = !message;
      this.$(".cf-alert span").textContent = message || "";
    }

    waiting(on, text = "Waiting for the next chunk") {
      this.$(".cf-wait").hidden = !on;
      if (on) this.$(".cf-wait").textContent = text;
    }

    /** The line before the door: null or {position, seconds}. */
    queue(place) {
      const box = this.$(".cf-queue");
      box.hidden = !place;
      if (!place) return;
      const others = place.position - 1;
      const line = others ? `${others} ${others > 1 ? "visitors are" : "visitor is"} before you` : "You are next";
      const minutes = place.seconds === null ? "" : place.seconds < 45 ? ", less than a minute" : `, about ${Math.round(place.seconds / 60)} min`;
      const text = `All places are taken. ${line}${minutes}.`;
      if (box.textContent !== text) box.textContent = text;
    }

    position(time, film, chunk) {
      const end = film.end || 1;
      this.$(".cf-now").textContent = cf.clock(time);
      this.$(".cf-total").textContent = cf.clock(film.end);
      this.$(".cf-scrub").style.setProperty("--cf-at", `${(100 * Math.min(time, end)) / end}%`);
      const slider = this.$(".cf-scrub");
      slider.ariaValueMax = film.end.toFixed(1);
      slider.ariaValueNow = time.toFixed(1);
      slider.ariaValueText = `${time.toFixed(1)} of ${film.end.toFixed(1)} seconds`;
      this.status.chunk.textContent = chunk < 0 ? "–" : chunk;
    }

    /** One stretch of the track for every prompt, in its colour. */
    track(film) {
      const track = this.$(".cf-scrub-track");
      const parts = film.stretches();
      while (track.children.length > parts.length) track.lastChild.remove();
      while (track.children.length < parts.length) track.append(document.createElement("i"));
      parts.forEach((part, i) => {
        track.children[i].style.cssText = `flex-grow:${part.end - part.start};background:var(--cf-p${part.color})`;
      });
    }

    saveFrame(name) {
      this.still().toBlob((blob) => cf.download(blob, name), "image/png");
    }

    fullScreen() {
      const screen = this.$(".cf-screen");
      if (document.fullscreenElement) document.exitFullscreen();
      else if (screen.requestFullscreen) screen.requestFullscreen();
      else this.$("video").webkitEnterFullscreen?.(); // iPhones: the video alone
    }

    live(behind) {
      this.$(".cf-to-live").hidden = behind <= 0;
      this.$(".cf-to-live span").textContent = behind > 0 ? ` −${behind.toFixed(0)} s` : "";
    }

    buffer(seconds, queued, chunkSeconds) {
      const ready = seconds + queued * chunkSeconds;
      this.status.buffer.textContent = `${ready.toFixed(1)} s`;
      this.$(".cf-meter i").style.width = `${Math.min(100, (100 * ready) / (3 * chunkSeconds))}%`;
    }

    timings(message) {
      const { timings } = message;
      this.status.fps.textContent = `${message.fps.toFixed(1)} FPS`;
      this.status.total.textContent = `${Math.round(timings.total + timings.encode)} ms`;
      const all = STAGES.reduce((sum, stage) => sum + (timings[stage] || 0), 0) || 1;
      STAGES.forEach((stage, i) => {
        this.bars[i].style.width = `${(100 * (timings[stage] || 0)) / all}%`;
        this.bars[i].title = `${stage} ${Math.round(timings[stage] || 0)} ms`;
      });
      this.status.stages.innerHTML = STAGES.filter((stage) => stage in timings)
        .map((stage) => `<span data-stage="${stage}">${stage} <b>${Math.round(timings[stage])}</b></span>`)
        .join("");
    }
  };
})();
