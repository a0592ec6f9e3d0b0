// What each term means, in one sentence and the paper's equation; shown under the pointer, on focus and on click.
(() => {
  // [sentence, equation]; Context Forcing, arXiv 2602.06028, section 3.
  const TERMS = {
    sink: ["The first latent frames of the film, kept for ever: attention leans on its very first tokens.", "M_sink = {x\u2081 \u2026 x_Ns}"],
    slow: ["Latent frames that surprised the model, consolidated for long; when it is full, the oldest leaves. Until then ordinary ones have its room (dim), a film's first ones before any are in fast memory.", "promote x_t  if  sim(k_t, k_t\u22121) < \u03c4   (eq. 7)"],
    fast: ["The newest latent frames, first in, first out; the chunk that was just made is among them. It fills once slow memory has no room left.", "M_fast = {x_t\u2212Nl+1 \u2026 x_t}"],
    surprisal: ["How much the keys changed since the chunk before: pooled over its tokens, normed, before RoPE. Above 1 \u2212 \u03c4 the chunk's first latent frame is promoted; drag the line to change \u03c4.", "1 \u2212 cos(k_t, k_t\u22121)   (eq. 7)"],
    whatif: ["Rings mark chunks that another \u03c4 would have promoted, counted from the recorded similarities; first order, as another memory would have made slightly other keys.", "sim(k_t, k_t\u22121) < \u03c4\u2032"],
    agreement: ["How many of the L layers hold a latent frame: the released students let every layer decide alone.", "\u03a3_l [x \u2208 M_slow(l)] / L"],
    attention: ["The share of attention that the newest chunk gives to each entry in its clean pass, from a sample of its queries, all heads alike.", "mean over q of  softmax(q k\u1d40 / \u221aD)"],
    when: ["The panel shows the memory as it was right after the chunk on screen: scrub the film or the strip, and it goes along.", ""],
    bytes: ["Keys and values that this film has reserved, for every layer and slot.", "2 \u00b7 L \u00b7 (N_s + N_c + N_l) \u00b7 T \u00b7 H \u00b7 D numbers"],
    share: ["Part of this chunk's time that went into managing the memory: deciding, copying, rotating keys.", ""],
  };
  let box = null;
  let owner = null;

  function show(node) {
    const [sentence, equation] = TERMS[node.dataset.tip];
    if (!box) {
      box = Object.assign(document.createElement("div"), { id: "mm-tip", className: "mm-tip" });
      box.setAttribute("role", "tooltip");
      document.querySelector(".gradio-container, body").append(box);
    }
    owner = node;
    box.replaceChildren(sentence);
    if (equation) box.append(Object.assign(document.createElement("code"), { textContent: equation }));
    box.hidden = false;
    node.setAttribute("aria-describedby", "mm-tip");
    const at = node.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8));
    const below = at.bottom + 6 + box.offsetHeight < window.innerHeight;
    box.style.cssText = `left:${left}px;top:${below ? at.bottom + 6 : at.top - 6 - box.offsetHeight}px`;
  }

  function hide() {
    if (!owner) return;
    owner.removeAttribute("aria-describedby");
    owner = null;
    box.hidden = true;
  }

  /** Makes the terms within `root` explain themselves. */
  cf.memoryTips = (root) => {
    let wait = 0;
    root.addEventListener("pointerover", (event) => {
      const node = event.target.closest("[data-tip]");
      clearTimeout(wait);
      if (node === owner) return;
      hide();
      if (node && event.pointerType !== "touch") wait = setTimeout(show, 350, node);
    });
    root.addEventListener("pointerleave", () => {
      clearTimeout(wait);
      hide();
    });
    root.addEventListener("focusin", (event) => {
      hide();
      if (event.target.matches(".mm-term:focus-visible")) show(event.target);
    });
    root.addEventListener("focusout", hide);
    root.addEventListener("click", (event) => {
      const node = event.target.closest(".mm-term");
      if (node) owner === node ? hide() : show(node);
      else hide();
    });
    root.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  };
  addEventListener("scroll", hide, { passive: true, capture: true });
})();
