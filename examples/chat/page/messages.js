// One message: what was said, and what the agent answers.
import { clone, put, tell, withdraw } from "./dom.js";
import { Files } from "./files.js";
import { HiddenPart, PARTS, planned } from "./parts.js";
import { PermissionView } from "./permission.js";
import { QuestionView } from "./question.js";
import { LIVE } from "./state.js";
import { doing, DROPPED, ending, titleOf, usage } from "./words.js";

export class UserView {
  constructor() {
    this.element = clone("user");
    this.files = new Files(this.element.querySelector(".files"));
  }

  update({ content, artifacts }) {
    put(this.element.querySelector("p"), content);
    this.element.querySelector("p").hidden = !content;
    this.files.update(artifacts);
  }

  /** It waits as long as its answer does, and is dropped if there is to be none. */
  answered(answer) {
    this.element.classList.toggle("is-waiting", answer.status === "queued");
    this.element.classList.toggle("is-dropped", ending(answer) === DROPPED);
  }
}

export class AssistantView {
  constructor(onRetry, onCancel, onReply) {
    this.onReply = onReply;
    this.asks = new Map();
    this.element = clone("assistant");
    this.find = (name) => this.element.querySelector(name);
    this.find(".error button").addEventListener("click", onRetry);
    this.find(".progress button").addEventListener("click", (click) => onCancel(click.currentTarget));
    this.parts = [];
    this.files = new Files(this.find(".files"));
  }

  update(message, event, data) {
    const live = LIVE.has(message.status);
    this.element.dataset.status = message.status;
    this.element.ariaBusy = String(message.status === "pending");
    if (event === "part.delta") this.parts[data.index]?.view.append(data.delta);
    else this.#showParts(message.parts, live);
    this.#showTodos(message.todos);
    this.#showAsks(message, live);
    this.files.update(message.artifacts);
    this.find(".progress").hidden = !live;
    put(this.find(".doing"), live ? doing(message) : "");
    withdraw(this.find(".progress button"), "hidden", message.status !== "queued");
    this.find(".error").hidden = message.status !== "error";
    put(this.find(".error p"), message.error?.message ?? "Something went wrong.");
    const note = live ? "" : [ending(message), usage(message)].filter(Boolean).join(" ");
    this.find(".note").hidden = !note;
    put(this.find(".note"), note);
  }

  /** What is asked names the way to take it back. */
  asked(question) {
    this.find(".progress button").ariaLabel = `Cancel ${titleOf(question)}`;
  }

  #showParts(parts, live) {
    const same = ({ part }, index) => parts[index]?.type === part.type && parts[index].id === part.id;
    const kept = this.parts.findIndex((shown, index) => !same(shown, index));
    if (kept >= 0) this.parts.splice(kept).forEach(({ view }) => view.element.remove());
    parts.forEach((part, index) => {
      if (this.parts[index]?.part === part) return;
      if (!this.parts[index]) {
        const view = new (PARTS[part.type] ?? HiddenPart)();
        this.#placeOf(part).append(view.element);
        this.parts[index] = { view };
      }
      this.parts[index].part = part;
      this.parts[index].view.update(part);
    });
    const growing = new Map(this.parts.map(({ part, view }) => [part.subagent, view]));    // each one's last
    for (const { part, view } of this.parts) if (!live || growing.get(part.subagent) !== view) view.settle();
  }

  /** Below the call that started its subagent, if it is of one. */
  #placeOf({ subagent }) {
    const call = subagent && this.parts.findLast(({ part }) => part.session_id === subagent);
    return call?.view.subagent ?? this.find(".parts");
  }

  #showAsks(message, live) {
    const { permissions = [], questions = [], parts } = message;
    const theirs = (ask) => parts.some((part) => part.session_id === ask.session_id);
    for (const [View, asks] of [[PermissionView, permissions], [QuestionView, questions]]) {
      for (const ask of asks) {
        let view = this.asks.get(ask.id);
        if (!view) {
          view = new View(ask, theirs(ask), (reply) => this.onReply(View.PATH, ask, reply));
          this.asks.set(ask.id, view);
          this.find(".asks").append(view.element);
          if (ask.status === "open" && live) tell(view.title);
        }
        view.update(ask);
      }
    }
  }

  #showTodos(todos) {
    if (todos === this.todos) return;
    this.todos = todos;
    const section = this.find(".todos");
    section.hidden = todos.length === 0;
    put(section.querySelector("h2"), `Plan: ${planned(todos)}`);
    section.querySelector("ul").replaceChildren(...todos.map((todo) => {
      const item = clone("todo");
      item.className = `is-${todo.status}`;
      put(item.querySelector(".what"), todo.content);
      put(item.querySelector(".state"), todo.status.replace("_", " "));
      return item;
    }));
  }
}
