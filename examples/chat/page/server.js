// The server: its answers, and what goes wrong with them.

export const AGENT = "/agent";
export const PAGE = 50;        // how many rows are read at once

/** A file of a message, to be sent again. */
export async function read({ url, filename, content_type }) {
  // One that is kept elsewhere is out of reach: this page may talk to its own server only.
  const response = await fetch(AGENT + url).catch(() => null);
  if (!response?.ok) throw new Error(`${filename} cannot be read. Attach it again, please.`);
  return new File([await response.blob()], filename, { type: content_type });
}

/** The JSON of an answer; a problem document becomes an Error that says what it says. */
export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers } };
  if (body instanceof FormData) options.body = body;       // the browser adds the type, with the boundary
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(AGENT + path, options).catch(() => {
    throw new Error("The server cannot be reached.");
  });
  if (response.ok) return response.status === 204 ? null : response.json();
  const problem = await response.json().catch(() => ({}));
  const said = [problem.detail, problem.title].find((text) => typeof text === "string");
  throw Object.assign(new Error(said ?? `The server answered ${response.status}.`), { status: response.status });
}
