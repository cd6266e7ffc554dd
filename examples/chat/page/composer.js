// The composer: what is written is sent, and what is being answered is stopped.
import { $, tell, text } from "./dom.js";
import { changed, frame, say } from "./frame.js";
import { call, read } from "./server.js";
import { attach, detach } from "./uploads.js";
import { inShort, refusal } from "./words.js";

export class Composer {
  unsent = null;        // the last message that may not have arrived, with its Idempotency-Key

  constructor(go, onSent) {
    this.go = go;
    this.onSent = onSent;
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit("enqueue");
    });
    $("now").addEventListener("click", () => this.#submit("interrupt"));
    text.addEventListener("input", () => { fill(text.value); say(""); });
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit(event.ctrlKey || event.metaKey ? "interrupt" : "enqueue");
    });
    $("stop").addEventListener("click", stop);
  }

  /** Say something. While the agent is answering it waits for its turn, or interrupts the answer. */
  async send(content, onBusy = "enqueue", choose = () => []) {
    if (frame.sending) return;
    frame.sending = true;
    say("");
    let files = [];
    try {
      files = await choose();
      const message = { content, onBusy, files };
      // Sending the same again after a failure is the same request: the key makes it one message.
      if (!same(this.unsent, message)) this.unsent = { ...message, key: `${Date.now()}-${Math.random()}` };
      if (!frame.thread) {
        const { id } = await call("POST", "/conversations", { title: inShort(content) || files[0].name });
        this.go(id);
      }
      const at = frame.thread;
      const answer = await call("POST", `${at.path}/messages`, bodyOf(message), { "Idempotency-Key": this.unsent.key });
      this.unsent = null;
      detach(files);
      frame.following = true;
      if (answer.status === "queued" || files.length) {
        at.sync();          // only the server knows what it stands before, and what it calls the files
      } else if (!at.closed) {
        at.absorb({ id: answer.reply_to, role: "user", status: "completed", content });
        at.absorb(answer);
      }
      this.onSent();
    } catch (error) {
      if (!text.value) fill(content);
      attach(files);
      say(refusal(error, files), true);
    } finally {
      frame.sending = false;
      changed();
    }
  }

  /** Ask once more, with the files that were sent with the question. */
  again({ content, artifacts }) {
    return this.send(content, "enqueue", () => Promise.all(artifacts.map(read)));
  }

  #submit(onBusy) {
    const content = text.value;
    const files = frame.uploads;
    if ($("send").disabled) {
      if (content.trim() || files.length) tell("The message before this one is still being sent.");
      return;
    }
    fill("");
    this.send(content, onBusy, () => files);
  }
}

const same = (one, other) => one?.content === other.content && one.onBusy === other.onBusy
  && one.files.length === other.files.length && one.files.every((file, at) => file === other.files[at]);

/** JSON, or a form where there are files. */
function bodyOf({ content, onBusy, files }) {
  if (!files.length) return { text: content, on_busy: onBusy };
  const form = new FormData();
  form.append("text", content);
  form.append("on_busy", onBusy);
  for (const file of files) form.append("files", file, file.name);
  return form;
}

function fill(content) {
  text.value = content;
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

async function stop() {
  const at = frame.thread;
  frame.stopping = true;
  changed();
  try {
    for (const { id } of at.running) at.absorb(await call("POST", `/messages/${id}/cancel`));
  } catch (error) {
    say(error.message, true);
  } finally {
    frame.stopping = false;
    changed();
  }
}
