// Questions that the agent asks, with options or words of one's own.
import { AskView, ENDED } from "./asks.js";
import { clone, put } from "./dom.js";

export class QuestionView extends AskView {
  static PATH = "questions";

  constructor(ask, ofSubagent, reply) {
    super("question", ask, ofSubagent, reply);
    this.find(".dismiss").addEventListener("click", () => this.reply({ reject: true }));
    this.find("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.find("[type=submit]").ariaDisabled === "true") return;
      this.reply({ answers: this.inquiries.map((one) => one.chosen), custom: this.inquiries.map((one) => one.words || null) });
    });
    this.element.addEventListener("input", () => this.#check());
    this.#check();
  }

  draw({ questions }) {
    this.title = `${this.who} has ${questions.length === 1 ? "a question" : `${questions.length} questions`}.`;
    this.brief = `${this.who} asked: ${questions.map(({ question }) => question).join(" ")}`;
    this.inquiries = questions.map((question) => new Inquiry(question));
    this.find(".questions").append(...this.inquiries.map(({ element }) => element));
  }

  /** Each question wants an answer; the button that is not ready stays in reach and says so. */
  #check() {
    this.find("[type=submit]").ariaDisabled = String(!this.inquiries.every((one) => one.chosen.length || one.words));
  }

  how({ status, reject, answers, questions }) {
    if (ENDED[status]) return ENDED[status];
    if (reject) return "Dismissed.";
    return questions.map(({ header }, index) => `${header}: ${answers[index].join(", ")}`).join(" · ");
  }
}

/** One of the things that a question asks. */
class Inquiry {
  static count = 0;

  constructor({ question, header, options, multiple, custom }) {
    this.element = clone("inquiry");
    const name = `inquiry-${Inquiry.count += 1}`;
    put(this.element.querySelector("legend b"), header);
    put(this.element.querySelector("legend span"), question);
    this.inputs = options.map(({ label, description }) => {
      const option = clone("option");
      const input = Object.assign(option.querySelector("input"), { type: multiple ? "checkbox" : "radio", name, value: label });
      put(option.querySelector(".label"), label);
      put(option.querySelector(".about"), description);
      this.element.querySelector(".options").append(option);
      return input;
    });
    this.own = this.element.querySelector(".words input");
    this.own.parentElement.hidden = !custom;
    if (multiple) return;
    // One answer: words of one's own take the place of an option, and the other way.
    this.own.addEventListener("input", () => { if (this.words) for (const input of this.inputs) input.checked = false; });
    for (const input of this.inputs) input.addEventListener("input", () => { this.own.value = ""; });
  }

  get chosen() { return this.inputs.filter((input) => input.checked).map((input) => input.value); }
  get words() { return this.own.value.trim(); }
}
