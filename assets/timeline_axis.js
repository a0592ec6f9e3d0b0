// The time axis of the page: chunks to pixels, zoom, scrolling, following; draws the ruler and the film strip.
// Announces itself as `cf:axis` {origin (chunks, at the left edge), scale (pixels per chunk), left, width (pixels on the page)}, so other
// rows can stand under it; `cf:axis-please` asks for it again.
{
const SCALES = { least: 1.5, most: 120, first: 22 };

class TimelineAxis {
  constructor(root, chunkSeconds) {
    this.scroll = root.querySelector(".tl-scroll");
    this.content = root.querySelector(".tl-content");
    this.ruler = root.querySelector(".tl-ruler canvas");
    this.film = root.querySelector(".tl-film canvas");
    this.chunkSeconds = chunkSeconds;
    this.scale = SCALES.first;
    this.length = 0; // chunks that there is something to show of
    this.follow = true;
    this.pictures = new Map(); // chunk -> one small picture of it
    this.onscale = () => {};
    this.onfollow = () => {};
    this.set = 0; // where this program scrolled to last: anything else was the user
    this.scroll.addEventListener("scroll", () => this.scrolled());
    new ResizeObserver(() => this.resized()).observe(this.scroll);
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributeFilter: ["data-cf-theme"] });
    cf.on("axis-please", () => this.announce());
  }

  get width() {
    return this.scroll.clientWidth;
  }
  x(chunk) {
    return chunk * this.scale;
  }
  seconds(chunk) {
    return chunk * this.chunkSeconds;
  }
  clock(chunk) {
    return cf.clock(this.seconds(chunk));
  }
  /** Chunk (with fraction) under a pointer. */
  at(clientX) {
    const left = this.content.getBoundingClientRect().left;
    return Math.max(0, (clientX - left) / this.scale);
  }

  extend(chunks) {
    const length = Math.max(chunks, Math.ceil(this.width / this.scale));
    if (length === this.length) return;
    this.length = length;
    this.content.style.width = `${this.x(length)}px`;
    this.content.style.setProperty("--tl-length", this.x(length) + "px");
  }

  zoom(scale, clientX = this.scroll.getBoundingClientRect().left + this.width / 2) {
    const chunk = this.at(clientX);
    const offset = clientX - this.scroll.getBoundingClientRect().left;
    this.scale = Math.min(SCALES.most, Math.max(SCALES.least, scale));
    this.length = 0;
    this.onscale();
    this.scrollTo(this.x(chunk) - offset);
    this.draw();
  }
  fit(chunks) {
    this.zoom((this.width - 24) / Math.max(4, chunks));
    this.scrollTo(0);
  }

  scrollTo(left) {
    this.set = Math.round(Math.max(0, Math.min(left, this.scroll.scrollWidth - this.width)));
    this.scroll.scrollLeft = this.set;
    this.draw();
  }
  reveal(from, to = from) {
    const left = this.scroll.scrollLeft;
    if (this.x(from) < left + 16 || this.x(from) > left + this.width - 48) this.scrollTo(this.x(from) - this.width / 3);
    else if (this.x(to) > left + this.width - 16) this.scrollTo(Math.min(this.x(from) - 16, this.x(to) - this.width + 48));
  }
  scrolled() {
    if (Math.abs(this.scroll.scrollLeft - this.set) > 2 && this.follow) this.setFollow(false);
    this.set = this.scroll.scrollLeft;
    this.draw();
  }
  setFollow(follow) {
    this.follow = follow;
    this.onfollow(follow);
  }
  /** Keeps the picture that is shown at two fifths of the view. */
  keep(chunk) {
    if (!this.follow) return;
    const left = Math.max(0, this.x(chunk) - this.width * 0.4);
    if (Math.abs(left - this.scroll.scrollLeft) >= 1) this.scrollTo(left);
  }

  resized() {
    const root = this.scroll.closest(".tl");
    root.dataset.width = this.width < 760 ? "middle narrow" : this.width < 1180 ? "middle" : "";
    this.length = 0;
    this.onscale();
    this.draw();
  }
  announce() {
    const left = this.scroll.getBoundingClientRect().left + window.scrollX;
    cf.emit("axis", { origin: this.scroll.scrollLeft / this.scale, scale: this.scale, left, width: this.width });
  }

  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.drawRuler();
      this.drawFilm();
      this.announce();
    });
  }

  begin(canvas) {
    const [width, height] = [this.width, canvas.parentElement.clientHeight];
    const density = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    return [pen, width, height];
  }

  drawRuler() {
    const [pen, width, height] = this.begin(this.ruler);
    const style = getComputedStyle(this.ruler.parentElement);
    const [strong, faint] = [style.getPropertyValue("--tl-ink-2"), style.getPropertyValue("--tl-ink-3")];
    const left = this.scroll.scrollLeft;
    const perSecond = this.scale / this.chunkSeconds;
    const step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600].find((s) => s * perSecond >= 64) ?? 7200;
    const numbered = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512].find((n) => n * this.scale >= 40) ?? 1024;
    const ticked = Math.max(1, numbered >> 3, Math.ceil(4 / this.scale));
    pen.font = `11px ${style.fontFamily}`;
    pen.textBaseline = "middle";
    pen.fillStyle = strong;
    for (let s = Math.floor(left / perSecond / step) * step; s * perSecond < left + width; s += step) {
      const x = Math.round(s * perSecond - left);
      pen.fillRect(x, 0, 1, 9);
      pen.fillText(`${Math.floor(s / 60)}:${String(s % 60).padStart(2, "0")}`, x + 4, 7);
    }
    pen.font = `9.5px ${style.fontFamily}`;
    pen.fillStyle = faint;
    for (let c = Math.floor(left / this.scale / ticked) * ticked; this.x(c) < left + width; c += ticked) {
      const x = Math.round(this.x(c) - left);
      const major = c % numbered === 0;
      pen.fillRect(x, height - (major ? 11 : 4), 1, major ? 11 : 4);
      if (major) pen.fillText(String(c), x + 4, height - 7);
    }
  }

  drawFilm() {
    const [pen, width, height] = this.begin(this.film);
    const first = this.pictures.get(0);
    if (!first) return;
    const left = this.scroll.scrollLeft;
    const wide = (height * (first.naturalWidth || 16)) / (first.naturalHeight || 10);
    const every = Math.max(1, Math.round(wide / this.scale));
    const cell = every * this.scale;
    for (let chunk = Math.floor(left / cell) * every; this.x(chunk) < left + width; chunk += every) {
      const picture = this.pictures.get(chunk);
      if (!picture?.complete || !picture.naturalWidth) continue;
      const exists = Math.min(cell, this.x(this.pictures.size) - this.x(chunk));
      const factor = Math.max(cell / picture.naturalWidth, height / picture.naturalHeight);
      const [w, h] = [exists / factor, height / factor];
      const fromX = Math.max(0, (picture.naturalWidth - cell / factor) / 2);
      const fromY = Math.max(0, (picture.naturalHeight - h) / 2);
      pen.drawImage(picture, fromX, fromY, Math.min(w, picture.naturalWidth), h, this.x(chunk) - left, 0, exists - 1, height);
    }
  }

  addPicture(chunk, url) {
    const picture = new Image();
    picture.onload = () => this.draw();
    picture.src = url;
    this.pictures.set(chunk, picture);
  }
}

cf.TimelineAxis = TimelineAxis;
}
