// The head's line about memory (gr.HTML's js_on_load: element, server): measured again when chunks come, at most every EVERY ms.
const EVERY = 5000;
let asked = -Infinity;

async function measure() {
  if (performance.now() - asked < EVERY) return;
  asked = performance.now();
  try {
    const answer = await server.in_use({});
    for (const place of element.querySelectorAll(".cf-use")) place.textContent = answer.text;
  } catch {
    // The player says when the server is gone.
  }
}

cf.on("chunk", measure);
