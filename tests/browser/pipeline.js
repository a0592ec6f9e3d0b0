// The way of a chunk from the worker to the screen, with a clock of its own. For tests/browser/test_pace.py.
// `plan`: seconds, transit (s, one a chunk), leads (chunks to make ahead once so many are made), clean (share of its time
// that a chunk keeps the worker busy after it was delivered), encode, question, tick (s), late (shares of a tick), length (s).
// The worker begins a chunk if fewer wait than the lead, or than 1 while a reader waits (`engine/desk.py`); the server sends
// what is granted, one after the other (`ui/run.py`); the page asks at its ticks (`assets/pace.js`).
window.play = (plan) => {
  const STEP = 0.01;
  const real = performance.now;
  let time = 0;
  performance.now = () => 1000 * time;
  const pace = new cf.Pace(0.3, 2);
  const film = { chunkSeconds: 0.75, length: 0 };
  const later = []; // [moment, what then]
  const after = (seconds, what) => later.push([time + seconds, what]);
  let [begun, made, waiting, sent, granted, busy, sending] = [0, 0, 0, 0, 2, false, false];
  let [shown, queued, mean, nextTick, ticks, dry] = [0, 0, 0, 0, 0, 0];
  const stalls = []; // seconds without a picture
  const waits = []; // seconds until the first chunk that has not been begun comes to the screen

  const work = () => {
    const asked = !sending && waiting === 0 && sent < granted;
    if (busy || waiting >= Math.max(plan.leads[made], asked ? 1 : 0)) return;
    const seconds = plan.seconds[begun++];
    busy = true;
    after(seconds, () => ([made, waiting] = [made + 1, waiting + 1]));
    after(seconds * (1 + plan.clean), () => (busy = false));
  };
  const send = () => {
    if (sending || waiting === 0 || sent >= granted) return;
    [waiting, sending] = [waiting - 1, true];
    const chunk = sent++;
    after(plan.encode, () => {
      const left = waiting;
      sending = false;
      after(plan.transit[chunk], () => {
        pace.came(chunk);
        film.length += 1;
        queued = left;
        const last = plan.seconds.slice(Math.max(0, chunk - 7), chunk + 1);
        mean = (last.reduce((a, b) => a + b) / last.length) * (1 + plan.clean);
      });
    });
  };
  const ask = () => {
    const upto = pace.wants(film, film.length * film.chunkSeconds - shown, queued ? 0 : mean + 0.1);
    if (upto === null) return;
    after(plan.question, () => {
      granted = Math.max(granted, upto);
      queued = waiting;
    });
  };

  for (; time < plan.length; time += STEP) {
    for (const due of later.filter(([moment]) => moment <= time + 1e-9)) {
      later.splice(later.indexOf(due), 1);
      due[1]();
    }
    for (const act of [work, send, work]) act();
    const end = film.length * film.chunkSeconds;
    if (film.length && end - shown < 1e-9) dry += STEP;
    else if (film.length) {
      if (dry > 0) stalls.push(dry);
      dry = 0;
      shown = Math.min(end, shown + STEP * (end - shown < 0.25 ? 0.9 : 1));
    }
    if (film.length && time >= nextTick) {
      nextTick = time + plan.tick * (1 + plan.late[ticks++ % plan.late.length]);
      ask();
    }
    if (time > 8) waits.push(begun * film.chunkSeconds - shown);
  }
  performance.now = real;
  waits.sort((a, b) => a - b);
  return { longest: Math.max(0, ...stalls), median: waits[waits.length >> 1], most: waits[waits.length - 1] };
};
