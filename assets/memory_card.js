// One entry, large, with all that is known of it.
(() => {
  const LANE = { sink: "Attention sink", slow: "Slow memory", fast: "Fast memory" };

  cf.MemoryCard = class {
    /** `act(kind, entry)`: pin, unpin or evict it. */
    constructor(root, { act }) {
      this.store = cf.memory;
      this.box = root.querySelector(".mm-card");
      this.entry = null;
      this.box.addEventListener("click", (event) => {
        const kind = event.target.closest("[data-act]")?.dataset.act;
        if (kind === "close") this.close();
        else if (kind === "goto") cf.emit("seek", { time: this.seconds + this.half });
        else if (kind) act(kind, this.entry);
      });
      this.box.addEventListener("keydown", (event) => {
        if (event.key === "Escape") {
          event.stopPropagation();
          this.close();
        } else if (event.key === "p") act(this.held()?.pinned ? "unpin" : "pin", this.entry);
        else if (event.key === "Delete") act("evict", this.entry);
      });
      cf.on("shown", (detail) => this.grab(detail));
    }

    open(entry, record, from) {
      this.entry = entry;
      this.record = record;
      this.from = from;
      this.seconds = this.store.timeOf(entry.latent);
      this.half = (record.end - record.start) / this.store.perChunk / 2; // to the middle of a latent frame
      this.awaited = entry.chunk;
      this.box.hidden = false;
      this.box.style.setProperty("--c", cf.colorVar(entry.prompt));
      this.box.replaceChildren(...this.parts());
      this.update();
      this.box.focus({ preventScroll: true });
      this.box.scrollIntoView({ block: "nearest" });
    }

    close() {
      if (this.box.hidden) return;
      this.box.hidden = true;
      this.awaited = null;
      this.entry = null;
      if (this.from?.isConnected) this.from.focus();
    }

    parts() {
      const { entry } = this;
      const make = (html) => {
        const box = document.createElement("template");
        box.innerHTML = html;
        return box.content.firstElementChild;
      };
      const picture = make('<div class="mm-large"><img alt=""><canvas hidden></canvas></div>');
      const url = this.store.pictures.get(entry.latent);
      if (url) picture.firstElementChild.src = url;
      picture.firstElementChild.alt = `Picture of latent frame ${entry.latent}`;
      const head = make('<header><h3></h3><button type="button" class="cf-key" data-act="close" aria-label="Close" title="Close (Esc)"><svg viewBox="0 0 24 24" aria-hidden="true"><path d="m6.400 5 5.600 5.600L17.600 5 19 6.400 13.400 12l5.600 5.600-1.400 1.400-5.600-5.600L6.400 19 5 17.600l5.600-5.600L5 6.400z"></path></svg></button></header>');
      head.firstElementChild.textContent = `${cf.clock(this.seconds)} \u00b7 latent frame ${entry.latent}`;
      const prompt = make("<p class=mm-prompt><i></i><span></span></p>");
      prompt.lastElementChild.textContent = entry.prompt;
      return [picture, head, prompt, make("<dl></dl>"), this.layers(), make('<div class="mm-row"><button type="button" class="mm-quiet" data-act="pin">Pin</button><button type="button" class="mm-quiet" data-act="evict">Evict now</button><button type="button" class="mm-quiet" data-act="goto">Go there</button></div>'), make('<p class="mm-note" role="status"></p>')];
    }

    /** Which layers hold it in this lane. */
    layers() {
      const { entry, record } = this;
      const box = document.createElement("div");
      box.className = "mm-who";
      const { snapshot } = record;
      const from = { sink: 0, slow: snapshot.sink, fast: snapshot.sink + snapshot.slow }[entry.lane];
      box.title = `Held by ${entry.agreement} of ${snapshot.layers} layers`;
      for (const row of snapshot.layer_slots) {
        const tick = document.createElement("i");
        tick.className = row.slice(from, from + snapshot[entry.lane]).includes(entry.latent) ? "mm-yes" : "";
        box.append(tick);
      }
      return box;
    }

    facts() {
      const { entry, record } = this;
      const { snapshot } = record;
      const slots = snapshot.sink + snapshot.slow + snapshot.fast;
      const facts = [
        ["Where", `${LANE[entry.lane]}, slot ${entry.slot}, as of chunk ${record.chunk}`],
        ["Made", `in chunk ${entry.chunk}, ${Math.max(0, record.end - this.seconds).toFixed(1)} s before the end of that`],
        ["Surprisal", entry.surprisal === null ? (entry.lane === "slow" ? "was not promoted: it fills the slot until something is" : "not promoted") : `${cf.short(entry.surprisal, 4)} at promotion (similarity ${cf.short(1 - entry.surprisal, 4)}, \u03c4 ${snapshot.tau})`],
        ["Position", `read at RoPE time index ${entry.position}`],
        ["Layers", `${entry.agreement} of ${snapshot.layers} hold it here`],
        ["Size", `${cf.bytesText(snapshot.bytes_held / slots)} of keys and values`],
      ];
      if (entry.promoted_at !== null) facts.splice(3, 0, ["Promoted", `with chunk ${entry.promoted_at}`]);
      const seen = snapshot.attention.find((view) => view.lane === entry.lane && view.latent === entry.latent);
      if (seen) facts.push(["Attention", `${((100 * seen.mass.reduce((sum, value) => sum + value, 0)) / seen.mass.length).toFixed(1)} % of chunk ${record.chunk}'s`]);
      return facts;
    }

    /** The entry as the newest memory has it; undefined when it is gone. */
    held() {
      const found = this.store.newest?.snapshot.entries.filter((entry) => entry.latent === this.entry?.latent) ?? [];
      return found.find((entry) => entry.lane === this.entry.lane) ?? found[0];
    }

    /** Again, when the memory went on. */
    update() {
      if (!this.entry) return;
      const now = this.held();
      const list = this.box.querySelector("dl");
      list.replaceChildren(...this.facts().flatMap(([name, text]) => [Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: text })]));
      const [pin, evict] = this.box.querySelectorAll("[data-act=pin], [data-act=unpin], [data-act=evict]");
      pin.dataset.act = now?.pinned ? "unpin" : "pin";
      pin.textContent = now?.pinned ? "Unpin" : "Pin";
      pin.title = now?.pinned ? "It may be evicted again (P)" : "Never evict it (P)";
      evict.title = "Drop it before the next chunk (Delete)";
      pin.disabled = !now;
      evict.disabled = !now || now.pinned;
      this.say(now ? (now.pinned ? "Pinned: it stays until you unpin it." : "") : "The memory does not hold it any more.");
    }
    say(text) {
      const line = this.box.querySelector(".mm-note");
      if (line && line.textContent !== text) line.textContent = text;
    }

    /** Once the player shows that moment: the picture itself, sharper than the thumbnail. */
    grab({ chunk, time }) {
      if (this.awaited === null || chunk !== this.awaited || Math.abs(time - this.seconds) > 0.3) return;
      const video = document.querySelector(".cf-video");
      if (!video?.videoWidth) return;
      this.awaited = null;
      const canvas = this.box.querySelector("canvas");
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.hidden = false;
    }
  };
})();
