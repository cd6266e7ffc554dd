// The events of one conversation, over a connection that the tabs of a browser share out.
//
// Over HTTP/1.1 a browser opens six connections to a host, for all of its tabs together: where six
// streams are open, nothing else comes through, not even a message that is sent. So there are four
// places. Who has none waits for one; who has one leaves it when its tab is hidden, and in turn when
// another waits. Behind each pause a stream goes on where it was, and misses nothing.
import { EVENTS } from "./state.js";

const [page] = performance.getEntriesByType("navigation");
const PLACES = /^h[23]/.test(page?.nextHopProtocol) ? 50 : 4;      // HTTP/2 has one connection for all
const NAMES = Array.from({ length: PLACES }, (_, at) => `stream ${at}`);
const TURN = 2000;      // ms that one has its place at least, while others wait
const AGAIN = 3000;     // ms behind an answer that was no stream

export class Events {
  #leave = new AbortController();
  #last = null;         // the id of the newest event

  /** `on` hears what comes: `open()`, `event(name, data)`, and `error(refused)` when it breaks. */
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.#run();
  }

  close() {
    this.closed = true;
    this.#leave.abort();
  }

  async #run() {
    while (!this.closed) {
      const leave = this.#leave = new AbortController();
      const hidden = () => { if (document.hidden) leave.abort(); };
      await shown(leave.signal);
      document.addEventListener("visibilitychange", hidden);
      await inPlace(leave.signal, (name) => this.#stay(leave.signal, name));
      leave.abort();        // takes its listeners with it
      document.removeEventListener("visibilitychange", hidden);
    }
  }

  /** Listen until this is to be left, or another waits for the place. */
  async #stay(signal, name) {
    if (signal.aborted) return;
    signal.addEventListener("abort", () => this.#end());
    this.#listen();
    do await pause(TURN, signal); while (!signal.aborted && !await waiting(name));
    this.#end();
  }

  #end() {
    clearTimeout(this.timer);
    this.source.close();
  }

  #listen() {
    const after = this.#last ? `?after=${encodeURIComponent(this.#last)}` : "";
    const source = this.source = new EventSource(this.url + after);
    source.onopen = () => this.on.open();
    source.onerror = () => {
      const refused = source.readyState === EventSource.CLOSED;     // else it comes back by itself
      if (refused) this.timer = setTimeout(() => this.#listen(), AGAIN);
      this.on.error(refused);
    };
    for (const name of EVENTS) {
      source.addEventListener(name, ({ data, lastEventId }) => {
        this.#last = lastEventId;
        this.on.event(name, JSON.parse(data));
      });
    }
  }
}

/** Do something in a place of one's own, once there is one; not at all if it is to be left before. */
async function inPlace(signal, work) {
  if (!navigator.locks) return work();      // neither HTTPS nor this machine: nothing to share it out with
  for (const name of NAMES) {
    if (signal.aborted) return;
    const found = await navigator.locks.request(name, { ifAvailable: true }, (lock) => lock && work(name).then(() => true));
    if (found) return;
  }
  const queues = await Promise.all(NAMES.map(waiting));
  const shortest = NAMES[queues.indexOf(Math.min(...queues))];
  await navigator.locks.request(shortest, { signal }, () => work(shortest)).catch((error) => {
    if (error !== signal.reason) throw error;
  });
}

/** How many tabs wait for that place. */
async function waiting(name) {
  const { pending } = name ? await navigator.locks.query() : { pending: [] };
  return pending.filter((lock) => lock.name === name).length;
}

/** Wait until the tab is shown, or the signal. */
function shown(signal) {
  return new Promise((resolve) => {
    const look = () => { if (!document.hidden) resolve(); };
    document.addEventListener("visibilitychange", look, { signal });
    signal.addEventListener("abort", resolve);
    look();
  });
}

/** Wait so many ms, or for the signal. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
