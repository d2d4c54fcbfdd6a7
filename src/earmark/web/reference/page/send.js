// Sends a request to this server, telling how far it is; it can be cancelled.

/** The error page that an answer's Link header names; null if it names none of ours. */
export function helpOf(link) {
  return /<(\/docs\/errors\/\w+)>; rel="help"/.exec(link ?? "")?.[1] ?? null;
}

/**
 * Sends what `requestOf` made.
 *
 * `watch` has `sent(done, total)`, in bytes of the body, and `came(text)`, of a stream so far.
 * Returns `cancel()` and `answer`, a promise of status, headers, body (a Blob) and milliseconds; of
 * null if it was cancelled. It fails if no answer came.
 */
export function send(request, token, watch) {
  const asked = new XMLHttpRequest(); // fetch tells nothing of how much was sent
  const began = performance.now();
  const answer = new Promise((resolve, reject) => {
    asked.addEventListener("load", () => resolve(answerOf(asked, performance.now() - began)));
    asked.addEventListener("abort", () => resolve(null));
    asked.addEventListener("error", () => reject(new NoAnswerError()));
  });
  asked.upload.addEventListener("progress", (event) => watch.sent(event.loaded, event.total));
  asked.addEventListener("progress", () => {
    if (asked.responseType === "text") watch.came(asked.responseText);
  });
  asked.open(request.method, request.target);
  asked.responseType = request.streams ? "text" : "blob"; // a Blob is there at its end only
  if (token) asked.setRequestHeader("Authorization", `Bearer ${token}`);
  for (const [name, value] of request.headers) asked.setRequestHeader(name, value);
  if (request.body?.kind === "json") asked.setRequestHeader("Content-Type", "application/json");
  asked.send(payload(request.body));
  return { answer, cancel: () => asked.abort() };
}

/** The connection ended before an answer. */
export class NoAnswerError extends Error {
  constructor() {
    super(
      "No answer came. The server is gone, the connection broke, or the request was refused early " +
        "and the browser did not show the answer; the curl line shows it.",
    );
  }
}

function answerOf(asked, milliseconds) {
  const body = asked.response instanceof Blob ? asked.response : new Blob([asked.response ?? ""]);
  return {
    status: asked.status,
    phrase: asked.statusText,
    headers: asked.getAllResponseHeaders().trim().split("\r\n").filter(Boolean),
    type: asked.getResponseHeader("Content-Type") ?? "",
    help: helpOf(asked.getResponseHeader("Link")),
    body,
    milliseconds,
  };
}

function payload(body) {
  if (!body) return null;
  if (body.kind === "json") return body.text;
  if (body.kind === "form") return new URLSearchParams(body.pairs);
  const form = new FormData();
  for (const part of body.parts) {
    if (part.json) form.append(part.name, JSON.stringify(part.json));
    else if (part.text) form.append(part.name, part.text);
    else if (part.file) form.append(part.name, part.file, part.fileName);
  }
  return form;
}
