// The form for policy and sizes. What a policy can be told comes from the server (setup.policies); what holds comes with every snapshot.
(() => {
  cf.MemoryPolicy = class {
    /** `policies`: [{name, title, about, fields: [{name, label, kind, least, most, choices, about}]}]; `own`: the model's own settings. */
    constructor(root, policies, own) {
      this.store = cf.memory;
      this.policies = policies;
      this.own = own;
      this.form = root.querySelector(".mm-form");
      this.box = this.form.querySelector(".mm-fields");
      this.bad = this.form.querySelector(".mm-error");
      this.button = this.form.querySelector(".mm-do");
      this.form.addEventListener("input", (event) => this.edited(event));
      this.form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.apply();
      });
      root.querySelector("[data-do=defaults]").addEventListener("click", () => this.fill(this.own, true));
      this.fill(own, false);
    }

    /** The settings of a snapshot, unless a person is editing. */
    show(settings) {
      if (!this.dirty) this.fill(settings, false);
    }

    fill(settings, edited) {
      if (!edited && this.held && JSON.stringify(this.held) === JSON.stringify(settings)) return;
      if (!edited) this.held = settings;
      this.build(settings.policy, settings);
      this.mark();
    }

    build(name, values) {
      const policy = this.policies.find((one) => one.name === name);
      const chooser = this.field({ name: "policy", label: "Policy", kind: "choice", choices: this.policies.map((one) => [one.name, one.title]) }, name);
      const about = Object.assign(document.createElement("p"), { className: "mm-note", textContent: policy.about });
      const usual = Object.fromEntries(policy.fields.map((field) => [field.name, field.usual]));
      this.box.replaceChildren(chooser, about, ...policy.fields.map((field) => this.field(field, values[field.name] ?? usual[field.name])));
    }

    field(field, value) {
      const label = document.createElement("label");
      label.className = `mm-field mm-field-${field.kind}`;
      if (field.about) label.title = field.about;
      label.append(Object.assign(document.createElement("span"), { textContent: field.label }));
      let input;
      if (field.kind === "choice") {
        input = document.createElement("select");
        for (const [key, text] of field.choices) input.add(new Option(text, key));
        input.value = value;
      } else if (field.kind === "yes") {
        input = Object.assign(document.createElement("input"), { type: "checkbox", checked: Boolean(value) });
      } else {
        input = Object.assign(document.createElement("input"), { type: "text", inputMode: "decimal", value: String(value), maxLength: 8, spellcheck: false });
      }
      input.name = field.name;
      label.append(input);
      return label;
    }

    /** What the form says now; a number that is none stays as it was typed, for the server to refuse. */
    read() {
      const settings = {};
      for (const input of this.box.querySelectorAll("input, select")) {
        if (input.type === "checkbox") settings[input.name] = input.checked;
        else if (input.localName === "select") settings[input.name] = input.value;
        else settings[input.name] = input.value.trim() === "" || Number.isNaN(Number(input.value)) ? input.value.trim() : Number(input.value);
      }
      return settings;
    }

    edited(event) {
      if (event.target.name === "policy") this.build(event.target.value, { ...this.held, ...this.read() });
      this.complain("");
      this.mark();
    }

    mark() {
      const now = this.read();
      this.dirty = Object.keys(now).some((name) => now[name] !== this.held[name]);
      this.button.disabled = !this.dirty;
      this.button.textContent = this.store.run ? "Apply from the next chunk" : "Apply when it plays";
    }

    complain(text) {
      this.bad.hidden = !text;
      this.bad.textContent = text;
    }

    async apply() {
      const now = this.read();
      const changes = Object.fromEntries(Object.entries(now).filter(([name, value]) => name === "policy" || value !== this.held[name]));
      if (now.policy !== this.held.policy) Object.assign(changes, now);
      if (!this.store.run || !this.store.records.length) {
        this.store.wish = changes;
        this.held = { ...this.held, ...now };
        return this.mark();
      }
      const answer = await this.store.send({ kind: "memory", changes });
      this.complain(answer.ok ? "" : answer.error);
      if (!answer.ok) return;
      this.held = { ...this.held, ...now };
      this.mark();
      this.told?.(`New settings hold from chunk ${answer.chunk} on.`);
    }
  };
})();
