// The files that are to be sent: chosen, dropped or pasted, shown as chips above the text until they have arrived.
import { $, clone, home, put, tell, withdraw } from "./dom.js";
import { changed, frame, say } from "./frame.js";
import { kindOf, sizeOf } from "./words.js";

const chips = new Map();

/** Put files with those that are to be sent; what is there already stays where it is. */
export function attach(files) {
  const fresh = files.filter((file) => !chips.has(file));
  for (const file of fresh) chips.set(file, $("uploads").appendChild(chip(file)));
  show();
  if (fresh.length) tell(`Attached: ${named(fresh)}.`);
}

/** Take files back, or they were sent; the focus goes to the next one. */
export function detach(files) {
  for (const file of files) {
    const item = chips.get(file);
    const heir = (item?.nextElementSibling ?? item?.previousElementSibling)?.querySelector("button");
    if (item) withdraw(item, "hidden", true, heir);
    item?.remove();
    chips.delete(file);
  }
  show();
}

const named = (files) => files.map(({ name }) => name).join(", ");

function show() {
  frame.uploads = [...chips.keys()];
  $("uploads").hidden = !chips.size;
  changed();
}

function chip(file) {
  const item = clone("upload");
  put(item.querySelector(".kind"), kindOf(file.name, file.type));
  put(item.querySelector(".name bdi"), file.name);
  put(item.querySelector(".size"), sizeOf(file.size));
  item.title = file.name;
  const remove = item.querySelector("button");
  remove.ariaLabel = `Remove ${file.name}`;
  remove.addEventListener("click", () => {
    if (frame.sending) return;       // it is on its way
    say("");
    detach([file]);
    tell(`Removed: ${file.name}.`);
  });
  return item;
}

/** Attach what a person brings; what was wrong before that is not spoken of any more. */
function bring(files) {
  if (!files.length) return;
  say("");
  attach(files);
}

$("attach").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  bring([...$("files").files]);
  $("files").value = "";             // so that the same one can be chosen again
  home().focus();
});

document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  // What is copied in a word processor comes as a picture, too: there the words are meant.
  if (!files.length || (types.includes("text/plain") && types.includes("text/html"))) return;
  event.preventDefault();
  bring([...files]);
});

const carriesFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
const dropping = (yes) => document.body.classList.toggle("dropping", yes);

document.addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();            // else the browser leaves the page to show the file
  event.dataTransfer.dropEffect = "copy";
  dropping(true);
});
document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) dropping(false); });
document.addEventListener("drop", (event) => {
  dropping(false);
  if (!carriesFiles(event)) return;
  event.preventDefault();
  const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
  const files = items.filter((item) => !item.webkitGetAsEntry()?.isDirectory).map((item) => item.getAsFile());
  bring(files);
  if (files.length < items.length) say("A folder cannot be attached, only the files in it.", true);
  home().focus();
});
