// The composer: what is written is sent, and what is being answered is stopped.
import { $, tell, text } from "./dom.js";
import { changed, frame, say } from "./frame.js";
import { call } from "./server.js";
import { inShort } from "./words.js";

export class Composer {
  unsent = null;        // the last text that may not have arrived, with its Idempotency-Key

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
  async send(content, onBusy = "enqueue") {
    if (frame.sending) return;
    frame.sending = true;
    say("");
    // Sending the same text again after a failure is the same request: the key makes it one message.
    if (this.unsent?.content !== content || this.unsent.onBusy !== onBusy) {
      this.unsent = { content, onBusy, key: `${Date.now()}-${Math.random()}` };
    }
    try {
      if (!frame.thread) {
        const { id } = await call("POST", "/conversations", { title: inShort(content) });
        this.go(id);
      }
      const at = frame.thread;
      const answer = await call("POST", `${at.path}/messages`, { text: content, on_busy: onBusy }, { "Idempotency-Key": this.unsent.key });
      this.unsent = null;
      frame.following = true;
      if (answer.status === "queued") {
        at.sync();          // only the server knows what it stands before
      } else if (!at.closed) {
        at.absorb({ id: answer.reply_to, role: "user", status: "completed", content });
        at.absorb(answer);
      }
      this.onSent();
    } catch (error) {
      if (!text.value) fill(content);
      say(error.status === 409 ? "No more messages may wait: cancel one, or let the agent answer." : error.message, true);
    } finally {
      frame.sending = false;
      changed();
    }
  }

  #submit(onBusy) {
    const content = text.value;
    if ($("send").disabled) {
      if (content.trim()) tell("The message before this one is still being sent.");
      return;
    }
    fill("");
    this.send(content, onBusy);
  }
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
