// One operation: what it takes, samples of it, Try It and the answer, and what can go wrong.

import { credentials, renewed, token } from "./credentials.js";
import { h, prose } from "./dom.js";
import { fieldsOf, requestOf } from "./fields.js";
import { curlLine, LANGUAGES } from "./samples.js";
import { NoAnswerError, send } from "./send.js";

const SHOWN_CHARACTERS = 200_000;
const MEBIBYTE = 1024 * 1024;

let language = "curl"; // chosen once for all operations, until the page is left

/** An operation as it stands on the page; what was entered stays while others are shown. */
export class OperationView {
  #operation;
  #errors;
  #fields;
  #sample = h("code", {});
  #languages = h("select", { id: "language" });
  #status = h("p", { role: "status", class: "outcome" }, "Click Try It! to send the request and see its response here.");
  #progress = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Sent" });
  #size = h("p", { class: "small", id: "sent" });
  #answer = h("div", { class: "answer" });
  #try = h("button", { type: "submit", class: "first" }, "Try It!");
  #cancel = h("button", { type: "button", hidden: true }, "Cancel");
  #sending = null;
  #whole = false; // whether all of the body left

  constructor(operation, errors) {
    this.#operation = operation;
    this.#errors = errors;
    this.#fields = fieldsOf(operation);
    this.#languages.append(...Object.keys(LANGUAGES).map((name) => h("option", { value: name }, name)));
    this.#languages.addEventListener("change", () => {
      language = this.#languages.value;
      this.refresh();
    });
    this.#cancel.addEventListener("click", () => this.#sending?.cancel());
    this.element = this.#element();
    this.refresh();
  }

  /** Writes the sample anew. */
  refresh() {
    this.#languages.value = language;
    this.#sample.textContent = LANGUAGES[language].write(this.#request());
  }

  /** Fills in values by the names of fields, and sends. */
  async run(values) {
    for (const one of this.#fields) if (one.name in values) one.fill(values[one.name]);
    this.refresh();
    await this.#send();
  }

  #request() {
    return requestOf(this.#operation, this.#fields);
  }

  #element() {
    const { summary, method, path, description } = this.#operation;
    const fields = this.#fields.map((one) => one.element());
    const form = h(
      "form",
      {
        id: "request",
        input: () => this.refresh(),
        change: () => this.refresh(),
        submit: (event) => {
          event.preventDefault();
          this.#send();
        },
      },
      h("h3", {}, fields.length ? "Parameters" : "No parameters"),
      fields,
    );
    return h(
      "article",
      {},
      h("div", { class: "about" }, h("h2", { tabindex: "-1" }, summary), h("p", { class: "address" }, h("code", {}, `${method} ${path}`)), h("p", {}, prose(description))),
      form,
      h("div", { class: "tries" }, this.#sampleBox(), this.#tryBox()),
      this.#outcomes(),
    );
  }

  #sampleBox() {
    const clipboard = navigator.clipboard; // there is none where neither TLS nor this machine is
    const copied = () => clipboard.writeText(this.#sample.textContent);
    const copy = clipboard ? h("button", { type: "button", click: copied }, "Copy") : null;
    return h(
      "section",
      { "aria-labelledby": "sample-title" },
      h("h3", { id: "sample-title" }, "Sample"),
      h("p", { class: "line" }, h("label", { for: "language" }, "Language"), this.#languages, copy),
      h("pre", { tabindex: "0", id: "sample" }, this.#sample),
      h(
        "p",
        { class: "small" },
        "It reads ",
        h("code", {}, "EARMARK"),
        ` (here ${location.origin}), `,
        h("code", {}, "CLIENT_ID"),
        " and ",
        h("code", {}, "CLIENT_SECRET"),
        " from its environment.",
      ),
    );
  }

  #tryBox() {
    this.#try.setAttribute("form", "request");
    return h(
      "section",
      { "aria-labelledby": "try-title", id: "try" },
      h("h3", { id: "try-title" }, "Response"),
      h("p", { class: "line" }, this.#try, this.#cancel),
      this.#progress,
      this.#size,
      this.#status,
      this.#answer,
    );
  }

  #outcomes() {
    const rows = Object.entries(this.#operation.responses).map(([status, told]) =>
      h("tr", {}, h("th", { scope: "row" }, status), h("td", {}, h("p", {}, prose(told.description ?? "")), this.#reasons(status, told))),
    );
    const head = h("tr", {}, h("th", { scope: "col" }, "Status"), h("th", { scope: "col" }, "Meaning"));
    return h("section", { class: "outcomes", "aria-labelledby": "outcomes-title" }, h("h3", { id: "outcomes-title" }, "Answers"), h("table", {}, h("thead", {}, head), h("tbody", {}, rows)));
  }

  #reasons(status, told) {
    const sentences = Object.entries(told.content?.["text/plain"]?.examples ?? {});
    if (sentences.length) {
      const items = sentences.map(([code, one]) =>
        h("li", { "data-code": code }, h("q", {}, one.value), " ", pageOf(code), h("br"), prose(this.#errors[code][0].cause)),
      );
      return h("div", {}, h("p", {}, "If several hold, the first of these is told:"), h("ol", { class: "sentences" }, items));
    }
    const kind = this.#operation.id === "create_token" ? "Refused token" : "Refused request";
    const codes = Object.values(this.#errors).flat().filter((one) => one.kind === kind && one.status === status);
    if (!codes.length) return null;
    return h("p", { class: "small" }, codes.flatMap((one) => [pageOf(one.code), " "]));
  }

  async #send() {
    this.#sending?.cancel();
    const request = this.#request();
    this.#fillCredentials(request);
    this.#busy(true);
    this.#answer.replaceChildren();
    this.#say("Sending …");
    const began = performance.now();
    try {
      const answer = await this.#answered(request);
      if (answer) await this.#tell(request, answer);
      else this.#say(`Cancelled after ${seconds(performance.now() - began)}.${this.#fate(request)}`);
    } catch (error) {
      const unanswered = error instanceof NoAnswerError;
      this.#say(unanswered ? error.message + this.#fate(request) : error.message, "bad");
      if (error.help) this.#answer.append(helpLink(error.help));
      this.#answer.append(curlBox(request));
    } finally {
      this.#busy(false);
    }
  }

  /** The answer; a token that ended before its time, as by a new key of the server, is renewed once. */
  async #answered(request) {
    const bearer = this.#operation.secured ? await token() : null;
    const answer = await this.#exchanged(request, bearer);
    if (bearer === null || answer?.status !== 401) return answer;
    this.#say("The token was refused; sending again with a new one …");
    return this.#exchanged(request, await renewed());
  }

  #exchanged(request, bearer) {
    this.#whole = false;
    this.#sending = send(request, bearer, {
      sent: (done, total) => this.#sent(done, total),
      came: (text) => this.#show(h("pre", { tabindex: "0" }, h("code", { id: "body" }, text.slice(-SHOWN_CHARACTERS)))),
    });
    return this.#sending.answer;
  }

  /** What became of an upload that was not answered. */
  #fate(request) {
    if (request.body?.kind !== "multipart") return "";
    return this.#whole
      ? " All of it was sent, so it may have been kept: look for its name before you send it again."
      : " It was not sent whole, so nothing of it is kept.";
  }

  /** Where a form asks for credentials and none were typed, those of the page are meant. */
  #fillCredentials(request) {
    const known = credentials();
    if (request.body?.kind !== "form") return;
    for (const pair of request.body.pairs) pair[1] ||= known?.[pair[0]] ?? "";
  }

  #busy(isBusy) {
    this.#progress.hidden = !isBusy || !this.#request().body;
    this.#progress.value = 0;
    this.#size.replaceChildren();
    this.#cancel.hidden = !isBusy;
    this.#try.disabled = isBusy;
  }

  /** Told beside the status, which a screen reader would read out at every step. */
  #sent(done, total) {
    this.#progress.value = total ? done / total : 0;
    this.#size.replaceChildren(`${(done / MEBIBYTE).toFixed(1)} of ${(total / MEBIBYTE).toFixed(1)} MiB`);
    this.#whole = done === total;
    if (this.#whole) this.#say("Sent; waiting for the answer …");
  }

  #say(text, kind = "") {
    this.#status.className = `outcome ${kind}`;
    this.#status.replaceChildren(text);
  }

  #show(...children) {
    this.#answer.replaceChildren(...children);
  }

  async #tell(request, answer) {
    const { status, phrase, milliseconds, help } = answer;
    this.#say(`${status} ${phrase} in ${seconds(milliseconds)}`, status < 400 ? "good" : "bad");
    const body = await bodyOf(answer);
    const parts = [h("h4", {}, "Body"), body.element];
    if (help) parts.unshift(helpLink(help));
    parts.push(...this.#follow(status, body.json));
    parts.push(h("h4", {}, "Headers"), h("pre", { tabindex: "0" }, h("code", { id: "headers" }, answer.headers.join("\n"))));
    this.#show(...parts, curlBox(request));
  }

  /** What an answer leads to, as its OpenAPI links say. */
  #follow(status, json) {
    const links = Object.values(this.#operation.responses[status]?.links ?? {});
    return links.map((link) => {
      const values = Object.entries(link.parameters).map(([name, from]) => [name, json?.[from.replace("$response.body#/", "")]]);
      const follow = () => dispatchEvent(new CustomEvent("follow", { detail: { id: link.operationId, values: Object.fromEntries(values) } }));
      return h("p", {}, h("button", { type: "button", click: follow, "data-follow": link.operationId }, link.description));
    });
  }
}

function pageOf(code) {
  return h("a", { href: `/docs/errors/${code}` }, h("code", {}, code));
}

function helpLink(help) {
  return h("p", {}, h("a", { href: help, id: "help" }, `What this means: ${help.split("/").pop()}`));
}

function curlBox(request) {
  return h("div", {}, h("h4", {}, "The same with curl"), h("pre", { tabindex: "0" }, h("code", { id: "curl" }, curlLine(request))));
}

function seconds(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

async function bodyOf({ body, type }) {
  if (body.size === 0) return { element: h("p", {}, "Empty.") };
  if (!/^(text\/|application\/(json|.*\+json|x-subrip|vcon))/.test(type)) {
    const save = h("a", { href: URL.createObjectURL(body), download: "earmark" }, "Save it");
    return { element: h("p", {}, `${body.size.toLocaleString("en")} bytes of ${type || "no stated type"}. `, save) };
  }
  const text = await body.text();
  let json = null;
  try {
    json = /json/.test(type) ? JSON.parse(text) : null;
  } catch {
    json = null; // it is shown as it came
  }
  const shown = json !== null && typeof json === "object" ? JSON.stringify(json, null, 2) : text;
  const cut = shown.length > SHOWN_CHARACTERS ? `${shown.slice(0, SHOWN_CHARACTERS)}\n… cut here` : shown;
  return { json, element: h("pre", { tabindex: "0" }, h("code", { id: "body" }, cut)) };
}
