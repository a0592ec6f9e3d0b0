// Messages in order and without gaps. Gradio hands a hidden tab only the newest value, so some never arrive by themselves.
(() => {
  cf.Inbox = class {
    /**
     * fetch(token, seq): Promise of {ok, messages, error, unreachable}; deliver(message): every message of the run, in order;
     * refused(message): there will be no run; waiting(message): not yet; lost(reason): the server does not know the run
     * any more.
     */
    constructor({ fetch, deliver, refused, waiting, lost }) {
      Object.assign(this, { fetch, deliver, refused, waiting, lost });
      this.past = new Set(); // tokens of runs that do not matter any more
      this.token = null;
      this.nonce = null;
      this.next = 0;
      this.filling = false;
    }

    /** Forget the present run; the next one answers to `nonce`. */
    expect(nonce) {
      if (this.token) this.past.add(this.token);
      this.token = null;
      this.nonce = nonce;
      this.next = 0;
    }

    receive(message) {
      if (!message || this.past.has(message.run)) return;
      if (message.type === "refused" || message.type === "waiting") {
        if (message.nonce === this.nonce && !this.token) this[message.type](message);
      } else if (this.token === null) {
        if (message.seq === 0 && message.nonce === this.nonce) this.take(message);
        else if (this.nonce) this.findOpening(message.run);
      } else if (message.run === this.token && message.seq >= this.next) {
        if (message.seq > this.next) this.fill();
        else this.take(message);
      }
    }

    take(message) {
      this.token = message.run;
      this.next = message.seq + 1;
      this.deliver(message);
    }

    /** Fetches what is missing. Also a way to ask whether there is anything. */
    async fill() {
      if (this.filling || !this.token) return;
      this.filling = true;
      const answer = await this.fetch(this.token, this.next);
      this.filling = false;
      if (answer.ok) answer.messages.forEach((message) => this.receive(message));
      else if (!answer.unreachable) this.lost(answer.error);
    }

    /** The first message was skipped, or `token` is of a run that is over. */
    async findOpening(token) {
      const answer = await this.fetch(token, 0);
      if (this.token) return;
      if (answer.ok && answer.messages[0]?.nonce === this.nonce) answer.messages.forEach((message) => this.receive(message));
      else if (!answer.unreachable) this.past.add(token);
    }
  };
})();
