// What is said of a message: what it is doing, why it ended, what it used.

/** What a live message is doing, in words. */
export function doing(message) {
  if (message.status === "queued") return "Waiting for its turn.";
  if (message.retrying) {
    const { attempt, message: reason, next_at } = message.retrying;
    const at = new Date(next_at);
    const when = isNaN(at) ? "" : ` at ${at.toLocaleTimeString()}`;
    return `${reason}. Trying again${when} (attempt ${attempt}).`.replace("..", ".");
  }
  const asks = [...message.permissions ?? [], ...message.questions ?? []];
  if (asks.some(({ status }) => status === "open")) return "Waiting for your answer.";
  return message.parts.length === 0 ? "Thinking…" : "";
}

/** The beginning of a text, to name it by. */
export const inShort = (content) => content.trim().split("\n")[0].slice(0, 80);

/** What a message is named by: how it begins, or the first file that came without words. */
export const titleOf = ({ content, artifacts }) => inShort(content) || (artifacts?.[0]?.filename ?? "");

/** A number of bytes, in words. */
export function sizeOf(bytes) {
  if (!(bytes >= 1000)) return bytes === 1 ? "1 byte" : `${bytes ?? 0} bytes`;
  const units = ["kB", "MB", "GB"];
  let size = bytes / 1000;
  while (size >= 999.5 && units.length > 1) { size /= 1000; units.shift(); }
  return `${size.toFixed(size < 9.95 ? 1 : 0).replace(".0", "")} ${units[0]}`;
}

/** A few letters that say what a file is. */
export function kindOf(filename, type) {
  const [, extension] = /.\.([a-z0-9]{1,4})$/i.exec(filename) ?? [];
  const family = { text: "TXT", image: "IMG", audio: "SND", video: "VID" }[type?.split("/")[0]];
  return extension?.toUpperCase() ?? family ?? "FILE";
}

/** Why what was sent is not taken. */
export function refusal({ status, message }, files) {
  if (status === 409) return "No more messages may wait: cancel one, or let the agent answer.";
  if (!files.length) return message;
  if (!status) return `${message} Or a file was moved or changed; then attach it again.`;
  const plain = message
    .replace(/^file (\d+)\b/, (words, number) => files[number - 1]?.name ?? words)
    .replace(/\b(\d+) bytes\b/, (_, bytes) => sizeOf(Number(bytes)));
  return `Not sent: ${plain}.`.replace("..", ".");
}

export const DROPPED = "Cancelled before it was answered.";
const ENDS = { length: "Cut off at the model's limit of length.", rejected: "Ended: a request was declined." };

/** Why an answer ends where it does, if that needs saying. */
export function ending({ status, finish, parts }) {
  if (status !== "cancelled") return ENDS[finish] ?? "";
  if (finish === "interrupted") return "Interrupted.";
  return parts.length ? "Stopped." : DROPPED;
}

/** What a finished message used. */
export function usage({ cost, input_tokens, output_tokens, cache_read_tokens }) {
  if (!input_tokens && !output_tokens) return "";
  const count = (tokens) => (tokens ?? 0).toLocaleString("en");
  const cached = cache_read_tokens ? ` (and ${count(cache_read_tokens)} cached)` : "";
  const money = cost ? ` · $${cost.toFixed(cost < 0.1 ? 4 : 2)}` : "";
  return `${count(input_tokens)} tokens in${cached} · ${count(output_tokens)} out${money}`;
}
