// A permission that the agent asks for.
import { AskView, ENDED } from "./asks.js";
import { diffLines } from "./diff.js";
import { put } from "./dom.js";

const WISHES = {
  bash: "run a command", edit: "change a file", read: "read a file", webfetch: "fetch a page", websearch: "search the web",
  task: "have a subagent work", external_directory: "use a folder outside its own", doom_loop: "go on, although it repeats itself",
};

export class PermissionView extends AskView {
  static PATH = "permissions";

  constructor(ask, ofSubagent, reply) {
    super("permission", ask, ofSubagent, reply);
    const words = this.find(".words input");
    const rejection = () => words.value.trim();
    words.addEventListener("input", () => put(this.find(".reject"), rejection() ? "Reject with these words" : "Reject"));
    this.find(".once").addEventListener("click", () => this.reply({ reply: "once" }));
    this.find(".always").addEventListener("click", () => this.reply({ reply: "always" }));
    this.find("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.reply({ reply: "reject", ...rejection() && { message: rejection() } });
    });
    // Enter in the words rejects with them; with none it would end the answer by accident.
    words.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !rejection()) event.preventDefault();
    });
  }

  draw({ permission, display: { command, diff, patterns }, always }) {
    const wish = WISHES[permission] ?? `use ${permission}`;
    this.title = `${this.who} asks to ${wish}.`;
    this.brief = `${this.who} asked to ${wish}: ${command ?? patterns.join(", ")}`;
    put(this.find(".command"), command ?? "");
    this.find(".command").hidden = !command;
    this.find(".diff").append(...diff ? diffLines(diff) : []);
    this.find(".diff").hidden = !diff;
    put(this.find(".patterns"), command ? "" : patterns.join("\n"));
    this.find(".patterns").hidden = Boolean(command);
    this.find(".always").hidden = always.length === 0;
    this.find(".always").title = `Also: ${always.join(", ")}`;
  }

  how({ status, reply, message }) {
    if (ENDED[status]) return ENDED[status];
    if (reply === "reject") return message ? `Rejected: ${message}` : "Rejected.";
    return reply === "always" ? "Allowed, always in this conversation." : "Allowed once.";
  }
}
