// Timeline editor, part three: what it hears from the page (cf_app/ui/player.py) and tells it (cf_app/ui/timeline_editor.py).

/** What the play button plays: the timeline when it is more than one prompt, else undefined and the prompt box has its way. */
cf.story = () => (plan.story ? plan.timeline : undefined);

cf.on("mode", (detail) => {
  mode = detail.mode;
  if (mode === "idle" || mode === "starting") forget();
  if (mode === "stopped" || mode === "failed") sync();
  refresh();
});
function forget() {
  run = null;
  received = 0;
  time = 0;
  pending = [];
  notes = [];
  axis.pictures.clear();
  view.remember(notes);
  view.playhead(null);
  view.progress(0);
  axis.draw();
}
cf.on("run", (opened) => {
  forget();
  run = opened.run;
  axis.setFollow(true);
  setCursor(null);
  sync();
});
const fixedShown = () => !find(".tl-cue [data-do=fork]").hidden || inspector.following;
cf.on("chunk", (chunk) => {
  received = Math.max(received, chunk.chunk + 1 + chunk.queued);
  const { thumbnails } = chunk;
  if (thumbnails.length) axis.addPicture(chunk.chunk, thumbnails[thumbnails.length >> 1]);
  view.progress(received);
  const block = chosenBlock();
  if (block && block.start < received !== fixedShown()) select(view.selected);
  if (plan.loop !== null && received > plan.loop) sync();
});
cf.on("shown", (picture) => {
  time = picture.time;
  view.playhead(time);
  if (picture.playing) axis.keep(time / chunkSeconds);
  pending = pending.filter((change) => change.chunk * chunkSeconds > time);
});
cf.on("applied", (applied) => {
  const says = {
    seed: () => ["#", `seed ${applied.seed}`],
    memory: () => ["m", `memory: ${Object.entries(applied.changes).map((pair) => pair.join(" ")).join(", ")}`],
    pin: () => ["p", `latent frame ${applied.latent} pinned`],
    unpin: () => ["p", `latent frame ${applied.latent} unpinned`],
    evict: () => ["x", `latent frame ${applied.latent} evicted`],
  }[applied.kind];
  if (says) note(applied.chunk, ...says());
  if (applied.kind === "prompt") pending.push({ chunk: applied.chunk });
  if (["prompt", "timeline", "seed", "memory"].includes(applied.kind)) sync();
});
cf.on("state", ({ state }) => {
  if (state !== "paused" || mode !== "playing") return;
  const planned = plan.markers.some((mark) => mark.kind === "pause" && mark.chunk === view.generated);
  note(view.generated, "\u2016", planned ? "paused by its marker: play goes on" : "paused by the system: play tries again");
});
cf.on("failed", (failed) => note(view.generated, "!", failed.message, true));
cf.on("ended", ({ reason }) => {
  if (reason === "closed") note(view.generated, "!", "closed by the server", true);
  pending = [];
  run = null;
  sync();
});

setInterval(refresh, 100);
ask({ op: "open" }).then((answer) => {
  if (!answer.ok) return tell(answer.error, true);
  accept(answer);
  return select(null);
});
