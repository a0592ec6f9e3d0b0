// The row of surprisal (gr.HTML's js_on_load): the curve, and what it says. The memory panel shows the ghosts.
const root = element.querySelector(".mc");
const store = cf.memory;
const { setup } = props;
const line = root.querySelector(".mc-say");
const what = root.querySelector("[data-pick=what]");

const curve = new cf.MemoryCurve(root, {
  tau: setTau,
  seek: (chunk) => store.seek(chunk),
  preview(tau) {
    what.checked = tau !== null;
    store.set("what", tau);
    if (tau !== null) count(tau);
    else line.textContent = "";
  },
});
cf.memoryTips(root);
curve.setTau(setup.tau);
gate(setup.gate);

function count(tau) {
  if (!store.newest) return;
  const { chunks } = store.whatIf(tau, Infinity, store.layer);
  const real = store.lines.filter((one) => one.promoted.length).length;
  line.textContent = `\u03c4 ${cf.tau(tau)} would have promoted ${chunks.size} of ${store.lines.length} chunks (it was ${real})`;
}

async function setTau(tau) {
  if (!store.newest) {
    store.wish = { ...store.wish, tau };
    line.textContent = `\u03c4 ${cf.tau(tau)} holds as soon as it plays`;
    return;
  }
  const answer = await store.send({ kind: "memory", changes: { tau } });
  if (!answer.ok) {
    curve.setTau(store.newest.snapshot.tau);
    line.textContent = answer.error;
    return;
  }
  curve.ahead = answer.chunk;
  line.textContent = `\u03c4 ${cf.tau(tau)} from chunk ${answer.chunk} on`;
  curve.draw();
}

/** A policy without a similarity gate has no tau to drag. */
function gate(kind) {
  const on = kind === "sim";
  curve.handle.node.hidden = !on;
  what.disabled = !on;
  if (!on) curve.setWhat(null);
}

what.addEventListener("change", () => curve.setWhat(what.checked ? Math.max(0, Math.min(1, 2 * curve.tau - 1)) : null));

store.listen((name) => {
  if (name === "run") {
    curve.ahead = null;
    line.textContent = "";
  }
  if (name === "chunk") {
    const { snapshot } = store.newest;
    gate(snapshot.gate);
    // The handle waits where it was put until the chunk comes from which that tau holds.
    if (!curve.held && (curve.ahead === null || snapshot.chunk >= curve.ahead) && snapshot.tau !== curve.tau) curve.setTau(snapshot.tau);
    if (store.what !== null) count(store.what);
  }
  if (name === "layer") curve.layer = store.layer;
  if (name === "folded") root.hidden = store.folded;
  curve.draw();
});
