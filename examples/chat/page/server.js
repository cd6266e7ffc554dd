// The server: its answers, and what goes wrong with them.

export const AGENT = "/agent";
export const PAGE = 50;        // how many rows are read at once

/** The JSON of an answer; a problem document becomes an Error that says what it says. */
export async function call(method, path, body, headers = {}) {
  const options = { method, headers: { ...headers } };
  if (body !== undefined) {
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
