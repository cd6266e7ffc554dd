// The files of a message: what a turn produced as cards, what a person sent as chips; each is a link that downloads it.
import { clone, put, withdraw } from "./dom.js";
import { AGENT } from "./server.js";
import { kindOf, sizeOf } from "./words.js";

export class Files {
  links = new Map();

  constructor(list) { this.list = list; }

  /** Only what changed is touched, for the focus may be in it. */
  update(artifacts) {
    if (artifacts === this.shown) return;
    this.shown = artifacts;
    for (const artifact of artifacts) this.#show(artifact);
    for (const [id, item] of this.links) {
      if (artifacts.some((artifact) => artifact.id === id)) continue;
      withdraw(item, "hidden", true);
      item.remove();
      this.links.delete(id);
    }
    this.list.hidden = artifacts.length === 0;
  }

  #show({ id, filename, path, content_type, size, url }) {
    if (!this.links.has(id)) this.links.set(id, this.list.appendChild(clone("file")));
    const item = this.links.get(id);
    const find = (name) => item.querySelector(name);
    const folder = path?.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";     // tells two of a name apart
    put(find(".kind"), kindOf(filename, content_type));
    put(find(".name bdi"), filename);
    put(find(".size"), sizeOf(size));
    put(find(".folder bdi"), folder);
    find(".folder").hidden = !folder;
    find("a").href = AGENT + url;
    find("a").title = path ?? filename;
    find("a").ariaLabel = `Download ${filename}, ${sizeOf(size)}`;
  }
}
