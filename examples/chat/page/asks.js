// What the agent asks: what is common to its permissions and its questions.
import { clone, put, withdraw } from "./dom.js";

/** One ask of the agent's: open until it is answered, here or elsewhere, or can be no more. */
export class AskView {
  constructor(template, ask, ofSubagent, reply) {
    this.element = clone(template);
    this.find = (name) => this.element.querySelector(name);
    this.who = ofSubagent ? "A subagent" : "The agent";
    this.reply = async (body) => {
      if (this.element.ariaBusy === "true") return;
      this.element.ariaBusy = "true";       // not disabled, which would lose the focus
      await reply(body);
      this.element.ariaBusy = "false";      // where it failed it can be tried again
    };
    this.draw(ask);
  }

  update(ask) {
    this.open = ask.status === "open";
    this.element.dataset.status = ask.status;
    put(this.find("h2"), this.open ? this.title : this.brief);
    this.element.ariaLabel = this.open ? this.title : this.brief;
    const how = this.open ? "" : ask.status === "answering" ? "Passing the answer on…" : this.how(ask);
    const good = ask.status === "answered" && !ask.reject && ask.reply !== "reject";
    this.element.className = `ask is-${ask.status} ${this.open ? "" : good ? "is-completed" : "is-cancelled"}`;
    withdraw(this.find("form"), "hidden", !this.open, nextAsk(this.element));
    put(this.find(".how"), how);
    this.find(".resolved").hidden = !how;
    const until = ask.deadline && new Date(ask.deadline);
    put(this.find(".until"), until ? `Unanswered, it is refused on ${until.toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}.` : "");
  }
}

/** What is to be answered next, for the focus. */
function nextAsk(element) {
  const open = [...document.querySelectorAll(".ask.is-open")].filter((other) => other !== element);
  return open[0]?.querySelector("form :is(button, input)") ?? undefined;
}

export const ENDED = { expired: "Nobody answered in time.", gone: "The agent does not wait for it any more." };
