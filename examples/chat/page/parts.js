// The parts of an answer: text, reasoning, tools. Each keeps its elements and touches only what changed.
import { diffLines } from "./diff.js";
import { clone, put } from "./dom.js";
import { Prose } from "./prose.js";

class TextPart {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "prose";
    this.prose = new Prose(this.element);
  }
  update(part) { this.prose.set(part.content); }
  append(delta) { this.prose.append(delta); }
  settle() { this.prose.settle(); }
}

class ReasoningPart extends TextPart {
  constructor() {
    super();
    this.element = clone("reasoning");
    this.prose = new Prose(this.element.querySelector(".prose"));
  }
  settle() {
    super.settle();
    put(this.element.querySelector("summary"), "Thought");
  }
}

class ToolPart {
  static STATES = { pending: "waiting", running: "running…", completed: "done", error: "failed" };

  constructor() {
    this.element = clone("tool");
    this.find = (name) => this.element.querySelector(name);
  }

  update({ display, input, output }) {
    const { status, gerund, past, kind, icon, target, diff, error } = display;
    this.element.dataset.status = status;
    this.find("details").className = `is-${status}`;      // not of what its subagent does
    this.find(".icon").dataset.icon = icon;
    put(this.find(".verb"), status === "completed" ? past : gerund);
    put(this.find(".target bdi"), target ?? "");
    this.find(".target").title = target ?? "";
    this.find(".target").classList.toggle("path", kind === "read" || kind === "edit");
    put(this.find(".state"), ToolPart.STATES[status] ?? status);
    this.find(".state").classList.toggle("visually-hidden", status === "completed");    // the tick says it
    this.#showDiff(diff);
    put(this.find(".input"), readable(input ?? {}));
    this.find(".given").hidden = Boolean(diff);      // it says the same
    const result = status === "completed" ? output : "";
    put(this.find(".output"), result ?? "");
    this.find(".result").hidden = !result;
    put(this.find(".failure"), error ?? "");
    this.find(".failure").hidden = !error;
  }

  #showDiff(diff) {
    this.find(".change").hidden = !diff;
    if (diff && diff !== this.diff) this.find(".diff").replaceChildren(...diffLines(diff));
    this.diff = diff;
  }

  /** Where stands what the subagent of this call says and does. */
  get subagent() { return this.find(".subagent"); }

  append() {}
  settle() {}
}

export const planned = (todos) => `${todos.filter((todo) => todo?.status === "completed").length} of ${todos.length} done`;

/** A tool's input: texts with their lines as they are, not as JSON. */
function readable(input) {
  return Object.entries(input).map(([key, value]) => {
    const text = typeof value === "string" ? value.trimEnd() : JSON.stringify(value, null, 2);
    return `${key}:${text.includes("\n") ? "\n" : " "}${text}`;
  }).join("\n");
}

/** A part the host does not show: it only keeps its place. */
export class HiddenPart {
  element = Object.assign(document.createElement("span"), { hidden: true });
  update() {}
  append() {}
  settle() {}
}

export const PARTS = { text: TextPart, reasoning: ReasoningPart, tool: ToolPart };
