// The chat: the conversation that the URL names is opened, and the parts of the page are brought together.
import { Composer } from "./composer.js";
import { Conversations } from "./conversations.js";
import { $, home, text, touch } from "./dom.js";
import { openDrawer } from "./drawer.js";
import { changed, frame, say, setTitle } from "./frame.js";
import { Thread } from "./thread.js";

const conversations = new Conversations(go);
const composer = new Composer(go, () => conversations.load());

/** What a conversation has around it. */
const around = {
  onGone: () => { go(""); conversations.load(); },
  onFinished: () => conversations.load(),
  onRetry: (question) => composer.again(question),
};

/** Show what the URL's hash names: a conversation, or a new one. */
function route() {
  const id = decodeURIComponent(location.hash.slice(1));
  if (id === (frame.thread?.id ?? "")) return;
  frame.thread?.close();
  $("messages").replaceChildren();
  $("earlier").hidden = $("reconnecting").hidden = true;
  frame.following = true;
  frame.thread = id ? new Thread(id, around) : null;
  setTitle("");
  say("");
  conversations.markCurrent();
  openDrawer(false);
  if (!touch.matches || document.activeElement !== document.body) home().focus();
}

function go(id) {
  location.hash = encodeURIComponent(id);
  route();
}

$("new").addEventListener("click", () => { go(""); openDrawer(false); text.focus(); });
$("earlier").addEventListener("click", () => frame.thread?.earlier().catch((error) => say(error.message, true)));
addEventListener("hashchange", route);

async function loadSuggestions() {
  const suggestions = await fetch("/suggestions").then((response) => response.json()).catch(() => []);
  $("scripted").hidden = !suggestions.length;
  $("suggestions").append(...suggestions.map((suggestion) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: suggestion });
    button.addEventListener("click", () => composer.send(suggestion));
    return button;
  }));
}

route();
changed();
conversations.load();
loadSuggestions();
