// Timeline editor, part two: pointer, keys and fields turn into `actions` and `edit` of timeline.js.

const drag = new cf.TimelineDrag(view, axis, {
  select: (selected, focus) => select(selected, focus),
  edit: (operation, then) => edit(operation, then),
  add: (chunk) => actions.add(chunk),
  cursor: setCursor,
  seek(place) {
    setCursor(null);
    cf.emit("seek", { time: place * chunkSeconds });
  },
});

function setCursor(chunk) {
  cursor = chunk;
  view.setCursor(chunk);
}

axis.onscale = () => {
  view.place();
  view.setCursor(cursor);
  view.remember(notes);
  if (!view.shown.hidden) view.playhead(time);
};
axis.onfollow = (follow) => find("[data-do=follow]").setAttribute("aria-pressed", String(follow));

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) actions[button.dataset.do]();
});
axis.scroll.addEventListener("mousemove", (event) => (hover = Math.floor(axis.at(event.clientX))));
axis.scroll.addEventListener("mouseleave", () => (hover = null));
view.track.addEventListener("focusin", (event) => {
  const { tlBlock } = event.target;
  if (!tlBlock) return;
  if (!drag.drag) axis.reveal(tlBlock.start, view.stopOf(tlBlock));
  if (view.selected?.start !== tlBlock.start && !drag.drag) select({ start: tlBlock.start });
});
view.marks.addEventListener("focusin", ({ target: { tlMark } }) => tlMark && !drag.drag && select({ kind: tlMark.kind, chunk: tlMark.chunk }));

function nudgeBlock(block, by, event) {
  const index = plan.blocks.indexOf(block);
  if (event.altKey) return swap(by);
  if (event.shiftKey) {
    if (block.stop === null) return tell("The last block is open. Set an end marker to give it an end.");
    return edit({ op: "resize", cue: block.start, stop: block.stop + by }, { start: block.start });
  }
  if (index === 0) return tell("The first block begins the film. Shift and arrows change its length.");
  return edit({ op: "move", cue: block.start, to: block.start + by }, { start: block.start + by });
}

function neighbour(node, by) {
  const all = [...node.parentElement.children];
  const next = by === -Infinity ? all[0] : by === Infinity ? all[all.length - 1] : all[all.indexOf(node) + by];
  next?.focus({ preventScroll: true });
}

view.track.addEventListener("keydown", (event) => {
  const node = event.target.closest(".tl-block");
  if (!node || event.ctrlKey || event.metaKey) return;
  const keys = {
    ArrowLeft: () => nudgeBlock(node.tlBlock, -1, event),
    ArrowRight: () => nudgeBlock(node.tlBlock, 1, event),
    ArrowUp: () => neighbour(node, -1),
    ArrowDown: () => neighbour(node, 1),
    Home: () => neighbour(node, -Infinity),
    End: () => neighbour(node, Infinity),
    Enter: () => inspector.write(),
    F2: () => inspector.write(),
  };
  if (keys[event.key]) event.preventDefault(), keys[event.key]();
});
view.marks.addEventListener("keydown", (event) => {
  const mark = event.target.tlMark;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (mark && event.key === "Enter") event.preventDefault(), find(".tl-marker label:not([hidden]) input").focus();
  if (!mark || !by) return;
  event.preventDefault();
  edit({ op: "move_marker", kind: mark.kind, chunk: mark.chunk, to: Math.max(0, mark.chunk + by) });
});
view.ruler.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -8, PageDown: 8, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  const most = plan.end ?? plan.blocks[plan.blocks.length - 1].start + 16;
  const to = Math.min(Math.max(by > 0 ? most : 0, cursor ?? 0), Math.max(view.generated, (cursor ?? target()) + by));
  setCursor(by === Infinity ? most : Math.max(view.generated, to));
  axis.reveal(cursor);
});
root.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drag.cancel()) return event.preventDefault();
  if (event.target.closest("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return undefined;
  const name = { s: "split", d: "duplicate", a: "add", b: "branch", Delete: "delete", Backspace: "delete" }[event.key.length > 1 ? event.key : event.key.toLowerCase()];
  if (!name) return undefined;
  event.preventDefault();
  return actions[name]();
});
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.defaultPrevented) return;
  if (event.target.closest?.("input, textarea, select, [contenteditable=true], dialog")) return; // there it undoes typing
  const key = event.key.toLowerCase();
  const name = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : null;
  if (!name) return;
  event.preventDefault();
  if (plan[name]) actions[name]();
});

// Fields of the bar

find(".tl-title").addEventListener("change", (event) => edit({ op: "title", title: event.target.value }));
find("[data-pick=marker]").addEventListener("change", async (event) => {
  const { value } = event.target;
  event.target.value = "";
  const marker = MARKS[value]?.(target());
  if (marker) await edit({ op: "put_marker", marker }, { kind: marker.kind, chunk: marker.chunk });
  if (marker) axis.reveal(marker.chunk);
});
for (const { name, title } of library) find("[data-pick=example]").add(new Option(title, name));
find("[data-pick=example]").addEventListener("change", async (event) => {
  const { value, selectedOptions } = event.target;
  const title = selectedOptions[0].textContent;
  event.target.value = "";
  if (value === "clear") return edit({ op: "clear" }, { start: 0 });
  const found = library.find((entry) => entry.name === value);
  return found && load(JSON.stringify(found.timeline), title);
});
find(".tl-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) await load(await file.text(), file.name);
});
find(".tl-text").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await load(find(".tl-text textarea").value, "This text")) actions.text();
});
root.addEventListener("dragover", (event) => event.preventDefault());
root.addEventListener("drop", async (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) await load(await file.text(), file.name);
});

