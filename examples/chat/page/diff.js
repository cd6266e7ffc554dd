// A change of a file, as it is looked at.

/** A unified diff, a line an element; what is added and removed is told by its sign, not by colour alone. */
export function diffLines(diff) {
  const KINDS = { "+": "added", "-": "removed", "@": "place" };
  return diff.trimEnd().split("\n").filter((line) => !/^(Index: |={3,}|\\ No newline)/.test(line)).map((line) => {
    const head = /^(---|\+\+\+) /.test(line);
    return Object.assign(document.createElement("span"), { textContent: line, className: head ? "place" : KINDS[line[0]] ?? "" });
  });
}
