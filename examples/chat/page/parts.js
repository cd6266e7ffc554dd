// The parts of an answer: text, reasoning, tools. Each keeps its elements and touches only what changed.
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

  update(part) {
    if (part.tool === "invalid" && part.input) {     // how OpenCode stores a call that it could not make
      part = { ...part, tool: part.input.tool, status: "error", error: part.input.error, output: "", title: "" };
    }
    const { text, path } = about(part);
    this.element.dataset.status = part.status;
    this.element.className = `tool is-${part.status}`;
    put(this.find(".name"), part.tool);
    put(this.find(".target bdi"), text);
    this.find(".target").title = text;
    this.find(".target").classList.toggle("path", path);
    put(this.find(".state"), ToolPart.STATES[part.status] ?? part.status);
    this.find(".state").classList.toggle("visually-hidden", part.status === "completed");    // the tick says it
    put(this.find(".input"), readable(part.input ?? {}));
    put(this.find(".output"), part.output ?? "");
    this.find(".result").hidden = !part.output;
    put(this.find(".failure"), part.error ?? "");
    this.find(".failure").hidden = !part.error;
  }

  /** Where stands what the subagent of this call says and does. */
  get subagent() { return this.find(".subagent"); }

  append() {}
  settle() {}
}

/** What a tool is used on, in a few words. The input is the model's: it may be anything. */
function about({ input, title }) {
  const { filePath, path, patchText, command, pattern, url, query, name, questions, todos, description } = input ?? {};
  const patched = [...String(patchText ?? "").matchAll(/^\*\*\* (?:Add|Update|Delete) File: (.+)$/gm)].map(([, file]) => file);
  const file = filePath ?? (patched.join(", ") || null);
  const plan = Array.isArray(todos) ? planned(todos) : null;
  const text = file ?? command ?? pattern ?? url ?? query ?? path ?? questions?.[0]?.question ?? plan ?? description ?? name ?? title ?? "";
  return { text: String(text), path: text === (file ?? path) };
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
