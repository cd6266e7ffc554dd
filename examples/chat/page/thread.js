// One open conversation: its rows are read, its events are followed.
import { $, scroller, withdraw } from "./dom.js";
import { Events } from "./events.js";
import { changed, say, setTitle } from "./frame.js";
import { AGENT, call, PAGE } from "./server.js";
import { LIVE, reduce } from "./state.js";
import { announce, Transcript } from "./transcript.js";

/** The messages of a conversation, kept up to date by one event stream. */
export class Thread {
  messages = new Map();
  loaded = false;
  closed = false;

  constructor(id, around) {
    this.id = id;
    this.path = `/conversations/${encodeURIComponent(id)}`;
    this.around = around;
    this.transcript = new Transcript(this.messages, (row) => this.absorb(row), around.onRetry);
    this.sync();
    this.events = this.#follow();
  }

  close() {
    this.closed = true;
    this.events.close();
  }

  get empty() {
    return this.loaded && this.messages.size === 0;
  }

  get live() {
    return [...this.messages.values()].filter((message) => LIVE.has(message.status));
  }

  get running() {
    return this.live.filter((message) => message.status === "pending");
  }

  get waiting() {
    return this.live.filter((message) => message.status === "queued");
  }

  #follow() {
    return new Events(`${AGENT}${this.path}/events`, {
      open: () => {
        $("reconnecting").hidden = true;
        this.sync();        // what happened before this stream began
      },
      error: (refused) => {
        $("reconnecting").hidden = false;
        if (refused) this.sync();        // which says why
      },
      event: (name, data) => this.#receive(name, data),
    });
  }

  /** Read the rows: to begin with, after each (re)connection, and when their order may have changed. */
  sync() {
    // One after the other, so that what was read last is shown last.
    this.next ??= Promise.resolve(this.reading).then(() => {
      this.reading = this.next;
      this.next = null;
      return this.#read();
    });
    return this.next;
  }

  async #read() {
    if (this.closed) return;
    try {
      const { title, messages } = await this.#newest();
      if (this.closed) return;
      messages.forEach((message) => this.absorb(message));
      this.transcript.order(messages);
      setTitle(title);
      if (!this.loaded) withdraw($("earlier"), "hidden", messages.length % PAGE > 0 || !messages.length, scroller);
      this.loaded = true;
      changed();
    } catch (error) {
      if (this.closed) return;
      if (error.status === 404) this.around.onGone();
      say(error.status === 404 ? "That conversation is not here any more." : error.message, true);
    }
  }

  /** The newest page; and if so many wait that it has nothing else, what is before them too. */
  async #newest() {
    const conversation = await call("GET", `${this.path}?limit=${PAGE}`);
    let { messages } = conversation;
    for (let more = messages; more.length === PAGE && more.find(({ role }) => role === "assistant").status === "queued";) {
      more = (await call("GET", `${this.path}?limit=${PAGE}&before=${encodeURIComponent(more[0].id)}`)).messages;
      messages = [...more, ...messages];
    }
    return { ...conversation, messages };
  }

  async earlier() {
    const [first] = $("messages").children;
    const page = await call("GET", `${this.path}?limit=${PAGE}&before=${encodeURIComponent(first.dataset.id)}`);
    if (this.closed) return;
    page.messages.reverse().forEach((message) => this.absorb(message, true));
    withdraw($("earlier"), "hidden", page.messages.length < PAGE, scroller);
  }

  /** A row that was read adds a message, begins or ends one; between that, the stream knows better. */
  absorb(message, before = false) {
    const stage = ({ status }) => ["queued", "pending"].indexOf(status) + 1 || 3;
    const known = this.messages.get(message.id);
    if (known && stage(known) >= stage(message)) return;
    this.#apply(message.id, "snapshot", { message }, before);
  }

  #receive(event, data) {
    const known = this.messages.get(data.message_id);
    if (!known && !data.message) return;
    if (event === "message.added" && known) this.absorb(data.message);    // it may be told twice
    else if (event === "message.added" && this.waiting.length) this.sync();    // before or behind them?
    else this.#apply(data.message_id, event, data);
    changed();
    if (!known && data.message.reply_to && !this.messages.has(data.message.reply_to)) this.sync();
    if (event === "finished") this.around.onFinished();
  }

  #apply(id, event, data, before = false) {
    const was = this.messages.get(id);
    const message = reduce(was, event, data);
    this.messages.set(id, message);
    this.transcript.show(message, event, data, before);
    if (was ? message.status !== was.status : LIVE.has(message.status)) announce(message);
  }
}
