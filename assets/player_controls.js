// Buttons, scrub bar and keys of the player, turned into calls of `actions`. Knows nothing of runs.
(() => {
  /**
   * actions: {toggle, stop, back, forth, live, dismiss, dice, frame, save, full, seed(text), seekTo(share 0..1), seekBy(chunks), start}
   */
  cf.wireControls = (root, actions) => {
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) actions[button.dataset.do]();
      else if (event.target.matches("video")) actions.toggle();
    });

    const seed = root.querySelector(".cf-seed input");
    seed.addEventListener("change", () => actions.seed(seed.value));
    seed.addEventListener("keydown", (event) => event.key === "Enter" && seed.blur());

    const scrub = root.querySelector(".cf-scrub");
    const follow = (event) => {
      const box = scrub.getBoundingClientRect();
      actions.seekTo((event.clientX - box.left) / box.width);
    };
    scrub.addEventListener("pointerdown", (event) => {
      scrub.setPointerCapture(event.pointerId);
      follow(event);
    });
    scrub.addEventListener("pointermove", (event) => scrub.hasPointerCapture(event.pointerId) && follow(event));
    scrub.addEventListener("keydown", (event) => {
      const chunks = { ArrowLeft: -1, ArrowRight: 1, PageUp: -8, PageDown: 8 }[event.key];
      if (chunks) actions.seekBy(chunks);
      else if (event.key === "Home") actions.start();
      else if (event.key === "End") actions.live();
      else return;
      event.preventDefault();
    });

    document.addEventListener("keydown", (event) => {
      if (cf.typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
      const onButton = event.target.closest?.("button, a, summary, [role=button]");
      const name = { " ": onButton ? null : "toggle", ArrowLeft: "back", ArrowRight: "forth", End: "live", f: "full" }[event.key];
      if (!name) return;
      event.preventDefault();
      actions[name]();
    });
  };
})();
