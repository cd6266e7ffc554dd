// The frame around a conversation: title, hint and buttons, and the end of the messages, which is kept in sight.
import { $, put, scroller, tell, text, withdraw } from "./dom.js";

/** What the frame goes by: after a change of it, `changed` shows it. */
export const frame = {
  thread: null,         // the open conversation; none for a new one
  uploads: [],          // the files that are to be sent
  sending: false,
  stopping: false,
  following: true,      // the reader is at the bottom and stays there
};
let problem = "";

const CTRL = /^(Mac|iP)/.test(navigator.platform) ? "Cmd" : "Ctrl";

/** Bring the page in line with the state: the composer, the welcome, the scroll position. */
export function changed() {
  const { thread, sending, stopping, uploads } = frame;
  const answering = Boolean(thread?.live.length);
  const empty = text.value.trim() === "" && !uploads.length;
  withdraw($("welcome"), "hidden", Boolean(thread) && !thread.empty);
  withdraw($("stop"), "hidden", !answering);
  withdraw($("stop"), "disabled", stopping || !thread?.running.length);    // between two, there is none to stop
  withdraw($("now"), "hidden", !answering);
  for (const button of [$("now"), $("send")]) withdraw(button, "disabled", sending || empty);
  $("send").ariaLabel = answering ? "Send after this answer" : "Send";
  document.querySelectorAll(".error button, #suggestions button").forEach((button) => withdraw(button, "disabled", sending));
  $("hint").classList.toggle("problem", Boolean(problem));
  $("uploads").ariaBusy = String(sending);
  put($("hint"), problem || (sending && uploads.length ? "Sending the files…" : answering
    ? `The agent is answering. Enter sends after this answer, ${CTRL}+Enter sends now and interrupts it.`
    : "Enter sends, Shift+Enter begins a new line."));
  requestAnimationFrame(stay);
}

export function say(message, isProblem = false) {
  problem = isProblem ? message : "";
  if (isProblem) tell(message);
  changed();
}

export function setTitle(title) {
  put($("title"), title || (frame.thread ? "Untitled" : "New conversation"));
  document.title = title ? `${title} · Chat` : "Chat";
}

const distance = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;

function stay() {
  if (frame.following && frame.thread) scroller.scrollTop = scroller.scrollHeight;
  withdraw($("latest"), "hidden", frame.following || distance() < 80);
}

let lastTop = 0;
scroller.addEventListener("scroll", () => {
  const up = scroller.scrollTop < lastTop;
  lastTop = scroller.scrollTop;
  frame.following = distance() < (up ? 2 : 40) || (frame.following && !up);
  withdraw($("latest"), "hidden", frame.following || distance() < 80);
});
$("latest").addEventListener("click", () => { frame.following = true; stay(); });
new ResizeObserver(stay).observe(scroller);
