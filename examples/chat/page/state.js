// The state of a message: what the server's events do to it.

export const LIVE = new Set(["queued", "pending"]);
export const EVENTS = ["message.added", "snapshot", "status", "part.added", "part.delta", "part.updated",
                "todos", "permission.asked", "permission.resolved", "question.asked", "question.resolved",
                "artifact", "retrying", "usage", "finished"];

/** The message after one event of the stream. Pure: no DOM, no clock, and nothing is changed in place. */
export function reduce(message, event, data) {
  const withPart = (index, part) =>
    ({ ...message, retrying: null, parts: Object.assign([...message.parts], { [index]: part }) });
  switch (event) {
    case "message.added":
    case "snapshot":
    case "finished":
      return { artifacts: [], ...data.message, parts: data.message.parts ?? [], todos: data.message.todos ?? [] };
    case "status":
      return { ...message, status: data.status, retrying: null };
    case "part.added":
    case "part.updated":
      return withPart(data.index, data.part);
    case "part.delta": {
      const part = message.parts[data.index];
      return part ? withPart(data.index, { ...part, content: part.content + data.delta }) : message;
    }
    case "todos":
      return { ...message, todos: data.todos };
    case "permission.asked":
    case "permission.resolved":
      return { ...message, permissions: withOne(message.permissions, data.permission) };
    case "question.asked":
    case "question.resolved":
      return { ...message, questions: withOne(message.questions, data.question) };
    case "artifact":
      return { ...message, artifacts: withOne(message.artifacts, data.artifact) };
    case "retrying":
      return { ...message, retrying: data };
    case "usage": {
      const { message_id, ...usage } = data;
      return { ...message, ...usage };
    }
    default:
      return message;
  }
}

/** The asks or files with this one in its place, or behind them. */
function withOne(all, fresh) {
  const known = all.some(({ id }) => id === fresh.id);
  return known ? all.map((one) => one.id === fresh.id ? fresh : one) : [...all, fresh];
}
