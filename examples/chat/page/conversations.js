// The list of conversations, at the left.
import { $, clone, home, tell, withdraw } from "./dom.js";
import { openDrawer } from "./drawer.js";
import { frame, say } from "./frame.js";
import { call, PAGE } from "./server.js";

export class Conversations {
  constructor(go) {
    this.go = go;
  }

  async load(before = "") {
    try {
      const page = await call("GET", `/conversations?limit=${PAGE}${before && `&before=${encodeURIComponent(before)}`}`);
      const list = $("conversations");
      const focused = list.contains(document.activeElement) ? document.activeElement : null;
      const items = page.items.map((item) => this.#item(item));
      let next = before ? null : list.firstElementChild;
      for (const item of items) {
        if (item === next) next = next.nextElementSibling;
        else list.insertBefore(item, next);
      }
      if (!before) [...list.children].slice(items.length).forEach((gone) => gone.remove());
      if (focused && focused !== document.activeElement) (focused.isConnected ? focused : $("new")).focus();
      withdraw($("older-conversations"), "hidden", !page.next, items[0]?.firstElementChild);
      $("older-conversations").onclick = () => this.load(page.next);
      this.markCurrent();
    } catch (error) {
      say(error.message, true);
    }
  }

  /** A conversation's place in the list: the one it has, for the focus may be in it, or a new one. */
  #item({ id, title, busy }) {
    const item = itemOf(id) ?? this.#newItem(id);
    const [link, remove] = item.children;
    item.classList.toggle("busy", busy);
    link.textContent = link.title = title || "Untitled";
    link.ariaDescription = busy ? "The agent is answering." : null;
    label(remove);
    return item;
  }

  #newItem(id) {
    const item = clone("conversation");
    const [link, remove] = item.children;
    const ask = (sure) => {
      remove.classList.toggle("sure", sure);
      label(remove);
      if (sure) tell(remove.ariaLabel);
    };
    item.dataset.id = id;
    link.href = `#${encodeURIComponent(id)}`;
    link.addEventListener("click", () => {
      if (id !== frame.thread?.id) return;       // the hash will change, and that shows it
      openDrawer(false);
      home().focus();
    });
    remove.addEventListener("click", () => {
      const sure = remove.classList.contains("sure");
      ask(!sure);
      if (sure) this.#remove(id);
    });
    remove.addEventListener("blur", () => ask(false));
    remove.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !remove.classList.contains("sure")) return;
      event.stopPropagation();             // it is not the drawer that is meant
      ask(false);
    });
    return item;
  }

  async #remove(id) {
    try {
      await call("DELETE", `/conversations/${encodeURIComponent(id)}`);
      const item = itemOf(id);
      const heir = item?.nextElementSibling ?? item?.previousElementSibling;
      if (item?.contains(document.activeElement)) (heir?.firstElementChild ?? $("new")).focus();
      item?.remove();
      if (frame.thread?.id === id) this.go("");
    } catch (error) {
      say(error.message, true);
    }
    this.load();
  }

  markCurrent() {
    for (const item of $("conversations").children) {
      const here = item.dataset.id === frame.thread?.id;
      item.classList.toggle("here", here);
      item.firstElementChild.ariaCurrent = here ? "page" : null;
    }
  }
}

const itemOf = (id) => [...$("conversations").children].find((item) => item.dataset.id === id);

function label(remove) {
  remove.ariaLabel = `${remove.classList.contains("sure") ? "Really delete?" : "Delete"} ${remove.previousElementSibling.textContent}`;
}
