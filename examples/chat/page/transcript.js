// The messages of a conversation as they are drawn, and what a person does with one of them.
import { $, tell, withdraw } from "./dom.js";
import { changed, say } from "./frame.js";
import { AssistantView, UserView } from "./messages.js";
import { call } from "./server.js";
import { ending } from "./words.js";

export class Transcript {
  views = new Map();

  constructor(messages, absorb, onRetry) {
    this.messages = messages;      // the thread's, by their ids
    this.absorb = absorb;          // tells it of a row
    this.onRetry = onRetry;
  }

  show(message, event, data, before) {
    const view = this.views.get(message.id) ?? this.#place(message, before);
    view.update(message, event, data);
    if (data.message) this.#pair(message);
  }

  /** Put them in that order; what is already in its place is not touched, for the focus may be in it. */
  order(messages) {
    const focused = document.activeElement;
    const elements = messages.map(({ id }) => this.views.get(id).element);
    let next = [...$("messages").children].find((element) => elements.includes(element)) ?? null;
    for (const element of elements) {
      if (element === next) next = next.nextElementSibling;
      else $("messages").insertBefore(element, next);
    }
    if (focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  /** A question and its answer know of each other, whichever came first. */
  #pair(message) {
    const answer = message.reply_to ? message : this.#answerTo(message);
    const question = this.messages.get(answer?.reply_to);
    if (!question) return;
    this.views.get(answer.id).asked(question);
    this.views.get(question.id).answered(answer);
  }

  #answerTo({ id }) {
    return [...this.messages.values()].find((other) => other.reply_to === id);
  }

  #place(message, before) {
    const view = message.role === "user" ? new UserView() : new AssistantView(
      () => this.#retry(message), (button) => this.#cancel(message, button),
      (path, ask, reply) => this.#answer(message, path, ask, reply),
    );
    view.element.dataset.id = message.id;
    this.views.set(message.id, view);
    const answer = this.views.get(this.#answerTo(message)?.id);
    if (answer) answer.element.before(view.element);      // it was told of later than its answer
    else $("messages")[before ? "prepend" : "append"](view.element);
    return view;
  }

  /** Answer what the agent asks. What others see of it, this tab sees, too: by the stream. */
  async #answer({ id }, path, ask, reply) {
    try {
      await call("POST", `/messages/${id}/${path}/${ask.id}`, reply);
      say("");
    } catch (error) {
      const told = { 409: "It was answered already, in another tab perhaps.", 410: "The agent does not wait for it any more." };
      say(told[error.status] ?? error.message, true);
    }
  }

  async #retry({ reply_to }) {
    try {
      this.onRetry(this.messages.get(reply_to) ?? await call("GET", `/messages/${reply_to}`));
    } catch (error) {
      say(error.message, true);
    }
  }

  /** Take back one that waits; the focus goes to the next of them. */
  async #cancel({ id }, button) {
    const others = [...document.querySelectorAll(".progress button:not([hidden], :disabled)")];
    const at = others.indexOf(button);
    withdraw(button, "disabled", true, others[at + 1] ?? others[at - 1]);
    try {
      this.absorb(await call("POST", `/messages/${id}/cancel`));
    } catch (error) {
      say(error.message, true);
    } finally {
      button.disabled = false;
      changed();
    }
  }
}

const produced = ({ artifacts: { length } }) => length ? ` It has ${length === 1 ? "a file" : `${length} files`}.` : "";

export function announce(message) {
  const words = {
    queued: "The message waits for its turn.", pending: "The agent is answering.", completed: `The answer is complete.${produced(message)}`,
    cancelled: ending(message), error: `The answer failed. ${message.error?.message ?? ""}`,
  };
  tell(words[message.status] ?? "");
}
