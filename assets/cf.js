// Shared by all components of the page, in the document's head: the event bus, the colours of prompts, the theme, the help.
(() => {
  const cf = (window.cf = {});

  cf.emit = (name, detail = {}) => document.dispatchEvent(new CustomEvent("cf:" + name, { detail }));
  cf.on = (name, listener) => document.addEventListener("cf:" + name, (event) => listener(event.detail));

  // Colour means prompt. The same rule as cf_app/ui/palette.py; the server's numbers win, as it knows the order of all prompts.
  const COLORS = 10;
  const numbers = new Map();
  const keyOf = (prompt) => prompt.trim().toLowerCase();
  function preferred(key) {
    let value = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(key)) value = Math.imul(value ^ byte, 0x01000193) >>> 0;
    return value % COLORS;
  }
  /** The number of a prompt's colour, 0 to 9; style with `var(--cf-p<number>)`. */
  cf.color = (prompt) => {
    const key = keyOf(prompt);
    if (!numbers.has(key)) {
      const counts = new Array(COLORS).fill(0);
      for (const number of numbers.values()) counts[number] += 1;
      const fewest = Math.min(...counts);
      let number = preferred(key);
      while (counts[number] !== fewest) number = (number + 1) % COLORS;
      numbers.set(key, number);
    }
    return numbers.get(key);
  };
  cf.learnColor = (prompt, number) => numbers.set(keyOf(prompt), number);
  cf.colorVar = (prompt) => `var(--cf-p${cf.color(prompt)})`;

  /** 75.25 -> "1:15.3"; never wider than its neighbours when set in tabular figures. */
  cf.clock = (seconds) => {
    const tenths = Math.max(0, Math.round(seconds * 10));
    const minutes = Math.floor(tenths / 600);
    return `${minutes}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
  };

  cf.bytes = (b64) => Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0));

  /** Hands a Blob or an address to the browser's downloads. */
  cf.download = (source, name) => {
    const link = document.createElement("a");
    link.href = typeof source === "string" ? source : URL.createObjectURL(source);
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    if (typeof source !== "string") setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // Dark first; a choice is remembered, and `?__theme=light` (Gradio's own) is heeded.
  const asked = new URLSearchParams(location.search).get("__theme");
  let theme = asked || localStorage.getItem("cf-theme") || "dark";
  const paint = () => {
    document.documentElement.dataset.cfTheme = theme;
    document.body?.classList.toggle("dark", theme !== "light");
  };
  paint();
  document.addEventListener("DOMContentLoaded", () => {
    paint();
    // Gradio sets its own class while it mounts; keep both views of the theme the same.
    new MutationObserver(() => {
      if (document.body.classList.contains("dark") !== (theme !== "light")) paint();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-cf]");
    if (button?.dataset.cf === "theme") {
      theme = theme === "light" ? "dark" : "light";
      localStorage.setItem("cf-theme", theme);
      paint();
    } else if (button?.dataset.cf === "help") {
      document.querySelector("#cf-help")?.showModal();
    } else if (button?.dataset.cf === "close") {
      button.closest("dialog")?.close();
    } else if (event.target.matches?.("dialog.cf-dialog")) {
      event.target.close(); // a click beside the dialog
    }
  });

  /** True while keys belong to a field, or to a component that marks itself with `data-cf-keys`. */
  cf.typing = (event) =>
    event.defaultPrevented ||
    event.target.closest?.("input, textarea, select, [contenteditable=true], [data-cf-keys], dialog") != null;
})();
