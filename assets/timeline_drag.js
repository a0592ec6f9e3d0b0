// Pointer work on the timeline: select, drag blocks, edges and markers (snapped to chunks), set the cursor, scrub, double-click.
// Shows a preview while dragging; hands over one operation when the pointer is let go. Escape takes it back.
{
const FAR = 4; // pixels before a press becomes a drag
const TWICE = 350; // ms between the two taps of a double tap
const BORDER = 36; // pixels at the ends of the view where a drag scrolls on

class TimelineDrag {
  /** `act`: {select, edit, add(chunk), cursor(chunk), seek(chunk), write()} */
  constructor(view, axis, act) {
    Object.assign(this, { view, axis, act, drag: null, lastTap: { time: 0, x: 0 } });
    const scroll = axis.scroll;
    scroll.addEventListener("pointerdown", (event) => this.down(event));
    scroll.addEventListener("pointermove", (event) => this.moved(event));
    scroll.addEventListener("pointerup", (event) => this.up(event));
    scroll.addEventListener("pointercancel", () => this.cancel());
    scroll.addEventListener("dblclick", (event) => event.preventDefault());
    for (const kind of ["touchstart", "touchmove"]) scroll.addEventListener(kind, (event) => this.pinch(event), { passive: false });
    scroll.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.axis.zoom(this.axis.scale * Math.exp(-event.deltaY * 0.004), event.clientX);
  }

  /** Two fingers zoom about their middle. */
  pinch(event) {
    if (event.touches.length !== 2) return;
    event.preventDefault();
    this.cancel();
    const [a, b] = [event.touches[0].clientX, event.touches[1].clientX];
    const span = Math.max(20, Math.abs(a - b));
    if (event.type === "touchmove" && this.span) this.axis.zoom((this.axis.scale * span) / this.span, (a + b) / 2);
    this.span = span;
  }

  down(event) {
    if (event.button !== 0) return;
    const target = event.target;
    const place = this.axis.at(event.clientX);
    const begin = { x: event.clientX, place, pointer: event.pointerId, moved: false };
    const blockNode = target.closest(".tl-block");
    if (target.closest(".tl-edge")) this.drag = { ...begin, ...this.edge(target, blockNode) };
    else if (blockNode) this.drag = { ...begin, ...this.body(event, blockNode) };
    else if (target.closest(".tl-mark")) this.drag = { ...begin, ...this.flag(event, target.closest(".tl-mark")) };
    else if (target.closest(".tl-ruler, .tl-film")) this.drag = { ...begin, scrub: true, threshold: 0 };
    else this.drag = { ...begin, empty: true };
    if (!this.drag.pan && this.drag.kind !== "tap") scrollCapture(this.axis.scroll, event.pointerId);
    if (this.drag.scrub) this.scrub(place);
  }

  edge(target, node) {
    const { blocks } = this.view.plan;
    const index = node.tlIndex;
    const atEnd = target.classList.contains("tl-stop");
    const left = atEnd ? index : index - 1;
    const boundary = atEnd ? blocks[index].stop : blocks[index].start;
    if (boundary < this.view.generated) return { kind: "locked", at: boundary };
    const after = atEnd ? null : blocks[index].stop;
    const least = Math.max(blocks[left].start + 1, this.view.generated);
    return { kind: "edge", left, boundary, least, most: after === null ? Infinity : after - 1, chosen: { start: blocks[index].start } };
  }

  body(event, node) {
    const { blocks } = this.view.plan;
    const block = node.tlBlock;
    const index = node.tlIndex;
    const chosen = this.view.selected?.start === block.start;
    // A finger pans the view unless the block is selected already: then it moves it.
    if (event.pointerType === "touch" && !chosen) return { kind: "tap", chosen: { start: block.start } };
    if (index === 0 || block.start < this.view.generated) return { kind: "still", chosen: { start: block.start } };
    const next = blocks[index + 1];
    const most = next ? (next.stop === null ? Infinity : next.stop - 1 - (block.stop - block.start)) : Infinity;
    const least = Math.max(blocks[index - 1].start + 1, this.view.generated);
    return { kind: "body", index, boundary: block.start, least, most, chosen: { start: block.start } };
  }

  flag(event, node) {
    const mark = node.tlMark;
    const chosen = { kind: mark.kind, chunk: mark.chunk };
    const known = this.view.selected?.kind === mark.kind && this.view.selected.chunk === mark.chunk;
    if (event.pointerType === "touch" && !known) return { kind: "tap", chosen };
    if (mark.chunk < this.view.generated) return { kind: "still", chosen };
    return { kind: "flag", mark, boundary: mark.chunk, least: this.view.generated, most: Infinity, chosen };
  }

  moved(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.pointer) return;
    drag.clientX = event.clientX;
    if (!drag.moved && Math.abs(event.clientX - drag.x) < FAR) return;
    drag.moved = true;
    if (!drag.frame) drag.frame = requestAnimationFrame(() => this.step());
  }

  step() {
    const drag = this.drag;
    if (!drag) return;
    drag.frame = 0;
    const place = this.axis.at(drag.clientX);
    if (drag.scrub) return this.scrub(place);
    if (!["edge", "body", "flag"].includes(drag.kind)) return;
    const to = Math.min(drag.most, Math.max(drag.least, Math.round(drag.boundary + place - drag.place)));
    if (to !== drag.to) {
      drag.to = to;
      this.preview(drag);
      this.view.hint(to, `${this.axis.clock(to)} \u00b7 chunk ${to}`);
    }
    this.scrollAtBorder(drag);
  }

  scrollAtBorder(drag) {
    const box = this.axis.scroll.getBoundingClientRect();
    const by = drag.clientX < box.left + BORDER ? -10 : drag.clientX > box.right - BORDER ? 10 : 0;
    if (!by) return;
    this.axis.setFollow(false);
    this.axis.scrollTo(this.axis.scroll.scrollLeft + by);
    drag.frame = requestAnimationFrame(() => this.step());
  }

  preview(drag) {
    const { blocks, markers } = this.view.plan;
    if (drag.kind === "flag") {
      const moved = (mark) => (mark === drag.mark ? Object.assign({ ...mark }, { chunk: drag.to }) : mark);
      return this.view.place(blocks, markers.map(moved));
    }
    const shift = drag.to - drag.boundary;
    const copy = blocks.slice();
    const put = (index, change) => copy[index] && (copy[index] = { ...copy[index], ...change });
    let ends = markers;
    if (drag.kind === "edge") {
      put(drag.left, { stop: drag.to });
      if (copy[drag.left + 1]) put(drag.left + 1, { start: drag.to });
      else ends = markers.map((mark) => (mark.kind === "end" ? { ...mark, chunk: drag.to } : mark));
    } else {
      const stop = blocks[drag.index].stop;
      put(drag.index - 1, { stop: drag.to });
      put(drag.index, { start: drag.to, stop: stop === null ? null : stop + shift });
      if (copy[drag.index + 1]) put(drag.index + 1, { start: stop + shift });
      else ends = markers.map((mark) => (mark.kind === "end" ? { ...mark, chunk: mark.chunk + shift } : mark));
    }
    const chosen = this.view.selected;
    if (drag.kind === "body") this.view.selected = { start: drag.to };
    this.view.place(copy, ends);
    this.view.selected = chosen;
  }

  up(event) {
    const drag = this.drag;
    if (!drag || event.pointerId !== drag.pointer) return;
    this.drag = null;
    cancelAnimationFrame(drag.frame);
    this.view.hint(null);
    const still = !drag.moved || drag.to === undefined || drag.to === drag.boundary;
    if (!still) return this.drop(drag);
    if (drag.to !== undefined) this.view.place();
    if (drag.moved && drag.kind !== "edge") return undefined;
    if (drag.chosen) this.act.select(drag.chosen, true);
    const twice = event.timeStamp - this.lastTap.time < TWICE && Math.abs(event.clientX - this.lastTap.x) < 12;
    this.lastTap = twice ? { time: 0, x: 0 } : { time: event.timeStamp, x: event.clientX };
    const onTrack = event.target.closest(".tl-track, .tl-block") || drag.kind === "tap" || drag.kind === "still" || drag.kind === "body";
    if (twice && onTrack && !(drag.chosen && drag.chosen.kind)) this.act.add(Math.floor(drag.place));
    else if (drag.empty) this.act.select(null);
    return undefined;
  }

  drop(drag) {
    const { blocks } = this.view.plan;
    if (drag.kind === "edge") {
      const first = blocks[drag.left + 1] ? drag.to : blocks[drag.left].start;
      this.act.edit({ op: "resize", cue: blocks[drag.left].start, stop: drag.to }, { start: first });
    } else if (drag.kind === "body") this.act.edit({ op: "move", cue: drag.boundary, to: drag.to }, { start: drag.to });
    else this.act.edit({ op: "move_marker", kind: drag.mark.kind, chunk: drag.mark.chunk, to: drag.to }, { kind: drag.mark.kind, chunk: drag.to });
  }

  /** True if there was a drag to give up. */
  cancel() {
    const drag = this.drag;
    this.drag = null;
    this.view.hint(null);
    if (drag) cancelAnimationFrame(drag.frame);
    if (drag?.to !== undefined) this.view.place();
    return drag !== null;
  }

  /** On what exists, the ruler and the film seek; ahead of it the ruler sets the edit cursor. */
  scrub(place) {
    if (place < this.view.generated) this.act.seek(place);
    else this.act.cursor(Math.max(this.view.generated, Math.round(place)));
  }
}

const scrollCapture = (node, pointer) => {
  try {
    node.setPointerCapture(pointer);
  } catch {
    // the pointer is gone already: there is nothing to capture
  }
};

cf.TimelineDrag = TimelineDrag;
}
