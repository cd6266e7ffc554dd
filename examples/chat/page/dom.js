// The page's elements: finding and copying them, setting their texts, and where the focus goes.

export const $ = (id) => document.getElementById(id);
export const clone = (name) => $(`${name}-template`).content.firstElementChild.cloneNode(true);
export const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };

/** Have a screen reader say it. */
export const tell = (words) => { $("announcer").textContent = words; };

export const scroller = $("scroller");
export const text = $("text");
export const touch = matchMedia("(hover: none)");

/** Where the focus is at home. On a touch screen not in the composer, which would bring up the keyboard. */
export const home = () => touch.matches ? scroller : text;

/** Hide or disable an element; the focus does not go with it. */
export function withdraw(element, how, yes, heir = home()) {
  if (yes && element.contains(document.activeElement)) heir.focus();
  element[how] = yes;
}
