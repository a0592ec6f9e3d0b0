// The prompt box (gr.HTML's js_on_load). Sends through `cf:prompt`; says under the box which words the model does not know,
// and what a prompt should name.
const field = element.querySelector("textarea");
const send = element.querySelector(".cf-send");
const words = element.querySelector(".cf-words span");
const known = element.querySelector(".cf-words details");
const chips = element.querySelector(".cf-chips");
const { examples, vocabulary, most } = props.setup;

const WAIT = 250; // ms of rest before a half-typed prompt is looked at
const RUNNING = ["starting", "playing", "paused"];
let mode = "idle";
let timer = 0;
let asked = 0;

cf.prompt = () => field.value;
field.value = examples[0] ?? "";
known.querySelector("p").textContent = vocabulary.join("  ");

function say(message, tone = "", withWords = false) {
  words.textContent = message;
  words.dataset.tone = tone;
  known.hidden = !withWords || vocabulary.length === 0;
}

// What a server's answer says of a prompt's words: those that are `unknown`, and `subjects` if it names none of them.
function advise({ unknown, subjects }) {
  const most = subjects.length ? 3 : 6; // two lines in all, so that nothing moves
  const named = unknown.slice(0, most).join(", ") + (unknown.length > most ? " …" : "");
  const lines = [];
  if (unknown.length) lines.push(`This model does not know: ${named}.`);
  if (subjects.length) lines.push(`Name what to show: ${subjects.join(", ")}.`);
  say(lines.join(" "), "hint", lines.length > 0);
}

async function check() {
  const mine = ++asked;
  if (!field.value.trim()) return say("");
  const answer = await server.check({ prompt: field.value }).catch(() => null);
  if (!answer || mine !== asked) return;
  if (answer.ok) advise(answer);
  else say(answer.error, "bad");
}

function grow() {
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 132)}px`;
}

function submit() {
  clearTimeout(timer);
  asked += 1;
  // An empty or hopeless prompt is refused by the server with words of its own; the box only passes them on.
  cf.emit("prompt", {
    prompt: field.value,
    reply: (answer) => (answer.ok ? advise(answer) : say(answer.error, "bad")),
  });
}

// A picture or clip that films begin with: it stays until it is dropped

const box = element.querySelector(".cf-field");
const shown = element.querySelector(".cf-start");
const file = element.querySelector(".cf-file");
let start = null; // {start, picture, seconds}

cf.start = () => start?.start;

function begin(answer, name = "") {
  start = answer;
  shown.hidden = !answer;
  if (!answer) return;
  shown.querySelector("img").src = answer.picture;
  shown.querySelector("span").textContent = name;
  shown.title = `Films begin with ${name} (${answer.seconds.toFixed(1)} s)`;
}

async function bring(chosen) {
  if (!chosen) return;
  const name = chosen.name || "the picture";
  if (chosen.size > most) return say(`${name} has ${Math.ceil(chosen.size / 1e6)} MB. Choose a picture or a clip of at most ${most / 1e6} MB.`, "bad");
  say(`Reading ${name} …`);
  const bytes = await new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => done(null);
    reader.readAsDataURL(chosen);
  });
  const answer = bytes === null ? null : await server.bring({ name, b64: bytes }).catch(() => null);
  if (!answer?.ok) return say(answer?.error ?? `${name} could not be sent. Try again.`, "bad");
  begin(answer, name);
  say(RUNNING.includes(mode) ? "The next film begins with it: stop this one, then play." : "The film begins with it.");
}

file.addEventListener("change", () => {
  bring(file.files[0]);
  file.value = ""; // so that the same file can be chosen again
});
element.querySelector("[data-start=bring]").addEventListener("click", () => file.click());
element.querySelector("[data-start=drop]").addEventListener("click", () => {
  begin(null);
  say("");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  box.addEventListener(kind, (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    box.toggleAttribute("data-over", kind === "dragover");
    if (kind === "drop") bring(event.dataTransfer.files[0]);
  });
}
field.addEventListener("paste", (event) => bring(event.clipboardData.files[0]));

for (const prompt of examples) {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.className = "cf-chip";
  chip.style.setProperty("--cf-c", cf.colorVar(prompt));
  chip.append(document.createElement("i"), prompt);
  chip.addEventListener("click", () => {
    field.value = prompt;
    grow();
    submit();
  });
  chips.append(chip);
}
chips.addEventListener("wheel", (event) => {
  if (chips.scrollWidth > chips.clientWidth && !event.deltaX) {
    chips.scrollLeft += event.deltaY;
    event.preventDefault();
  }
});

new ResizeObserver(grow).observe(element);

field.addEventListener("input", () => {
  grow();
  clearTimeout(timer);
  timer = setTimeout(check, WAIT);
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    submit();
  }
});
send.addEventListener("click", submit);

cf.on("mode", (detail) => {
  mode = detail.mode;
  send.querySelector("span").textContent = RUNNING.includes(mode) ? "Change" : "Play";
});
cf.on("run", advise);
cf.on("refused", (message) => say(message.message, "bad"));
