// The list of conversations as a drawer, on a phone.
import { $ } from "./dom.js";

export function openDrawer(open) {
  document.body.classList.toggle("drawer-open", open);
  document.querySelector("main").inert = open;
  $("menu").ariaExpanded = String(open);
  if (open) $("new").focus();
}

function leaveDrawer() {
  openDrawer(false);
  $("menu").focus();
}

$("menu").addEventListener("click", () => openDrawer(true));
$("scrim").addEventListener("click", leaveDrawer);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.classList.contains("drawer-open")) leaveDrawer();
});
matchMedia("(max-width: 46rem)").addEventListener("change", () => openDrawer(false));
