// Text that grows while it is read.

/** Text that grows: paragraphs with their white space, ``` fences as code blocks, text nodes only. */
export class Prose {
  static FENCE = /^ {0,3}```([^`\n]*)\n?$/;
  static MAY_BE_FENCE = /^ {0,3}(`{0,2}|```[^`\n]*)$/;

  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.text = "";      // all that was given
    this.held = "";      // the start of a line that may become a fence
    this.gap = "";       // line ends that count only if more follows
    this.node = null;    // the text node that grows
    this.code = false;
    this.midline = false;
  }

  set(text) {
    if (!text.startsWith(this.text)) this.clear();
    this.append(text.slice(this.text.length));
  }

  append(delta) {
    this.text += delta;
    for (const piece of delta.split(/(?<=\n)/)) {
      this.held += piece;
      if (this.midline || !Prose.MAY_BE_FENCE.test(this.held)) this.#line();
    }
  }

  /** Nothing more is expected: what was held back is shown. */
  settle() {
    if (this.held) this.#line();
  }

  #line() {
    const line = this.held;
    const fence = this.midline ? null : Prose.FENCE.exec(line);
    this.held = "";
    this.midline = false;
    if (fence && this.code && fence[1].trim() === "") return this.#close();
    if (fence && !this.code) return this.#open(fence[1].trim());
    this.midline = !line.endsWith("\n");
    this.#write(line);
  }

  #open(language) {
    this.#close();
    this.code = true;
    const pre = document.createElement("pre");
    pre.tabIndex = 0;
    pre.role = "group";
    pre.ariaLabel = `Code ${language}`.trim();
    if (language) pre.dataset.language = language;
    pre.append(document.createElement("code"));
    this.element.append(pre);
    this.#grow(pre.firstChild);
  }

  #close() {
    this.code = false;
    this.node = null;
    this.gap = "";
  }

  #grow(element) {
    this.node = document.createTextNode("");
    element.append(this.node);
  }

  #write(line) {
    const text = line.replace(/\n+$/, "");
    if (text) {
      if (!this.code && this.gap.length > 1) this.node = null;   // an empty line: the next paragraph
      if (!this.node) {
        this.gap = "";
        this.#grow(this.element.appendChild(document.createElement("p")));
      }
      this.node.appendData(this.gap + text);
      this.gap = "";
    }
    this.gap += line.slice(text.length);
  }
}
