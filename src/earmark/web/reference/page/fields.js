// What an operation takes: each thing is told once, together with the input for it.

import { h, prose } from "./dom.js";
import { example, given, typeOf } from "./openapi.js";

const SECRETS = ["client_id", "client_secret"];

/** The fields of an operation, in the order in which the page shows them. */
export function fieldsOf(operation) {
  const parameters = operation.parameters.map((one) => field(one.in, one.name, one.schema, one));
  const isHeader = (one) => one.place === "header";
  const accepted = forms(operation);
  return [
    ...parameters.filter((one) => !isHeader(one)),
    ...bodyFields(operation.body),
    ...parameters.filter(isHeader),
    ...(accepted.length > 1 ? [field("header", "Accept", ACCEPT(accepted), {})] : []),
  ];
}

const ACCEPT = (accepted) => ({
  type: "string",
  enum: accepted,
  description: "The form of the answer; without it the usual one.",
});

function forms(operation) {
  const all = Object.values(operation.responses).flatMap((one) => Object.keys(one.content ?? {}));
  return [...new Set(all)];
}

function bodyFields(body) {
  if (!body) return [];
  if (body.mediaType === "application/json" || !body.schema?.properties) {
    return [field("body", "body", body.schema, { required: true })];
  }
  const place = body.mediaType === "multipart/form-data" ? "part" : "form";
  const parts = Object.entries(body.schema.properties);
  const last = ([, schema]) => Boolean(schema.contentSchema); // what has fields of its own
  return parts.sort((a, b) => last(a) - last(b)).flatMap(([name, schema]) => {
    const required = body.schema.required?.includes(name);
    const headers = Object.keys(body.encoding[name]?.headers ?? {});
    const part = field(place, name, schema, { required, headers });
    if (!schema.contentSchema?.properties) return [part];
    return [part, ...metadataFields(schema.contentSchema)];
  });
}

function metadataFields(schema) {
  return Object.entries(schema.properties).map(([name, one]) =>
    field("metadata", name, one, { required: schema.required?.includes(name) }),
  );
}

function field(place, name, schema = {}, { required = false, description, headers = [] }) {
  return new Field(place, name, schema, required, description ?? schema.description ?? "", headers);
}

let made = 0;

class Field {
  constructor(place, name, schema, required, description, headers) {
    Object.assign(this, { place, name, required, description, headers });
    this.schema = given(schema);
    this.whole = schema.contentSchema?.properties ? schema.contentSchema : null;
    this.id = `field-${(made += 1)}`;
    this.input = this.whole ? null : this.#input();
  }

  /** Whether it is sent: it has a value. */
  get isGiven() {
    return this.input !== null && this.input.value !== "";
  }

  get isFile() {
    return this.schema.format === "binary";
  }

  /** Its value as JSON has it; what is no such value is sent as the text it is. */
  get value() {
    const text = this.input.value;
    const isText = [this.schema.type].flat().includes("string");
    if (isText) return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  /** The term and its explanation, for a list of definitions. */
  element() {
    const label = this.input ? h("label", { for: this.id }, h("code", {}, this.name)) : h("code", {}, this.name);
    const marks = [
      h("span", { class: "type" }, this.isFile ? "file" : this.whole ? "JSON text" : typeOf(this.schema)),
      this.place === "metadata" || this.place === "body" ? null : h("span", { class: "type" }, PLACES[this.place]),
      this.required ? h("strong", { class: "required" }, "required") : null,
      this.schema.deprecated ? h("strong", { class: "deprecated" }, "deprecated") : null,
    ];
    const about = h("p", { id: `${this.id}-about` }, prose([this.description, this.whole?.description].filter(Boolean).join(" ")));
    return h(
      "div",
      { class: `field ${this.place}`, "data-field": this.name },
      h("div", { class: "term" }, label, marks),
      about,
      this.#examples(),
      this.headers.length ? h("p", {}, "The part may bear ", this.headers.map((name) => [h("code", {}, name), " "]).flat()) : null,
      this.#properties(),
      this.input,
    );
  }

  /** Puts a value in. */
  fill(value) {
    this.input.value = value;
  }

  #examples() {
    const values = this.schema.examples ?? [];
    if (this.place === "body" || !values.length) return null;
    const names = this.schema["x-example-names"] ?? [];
    const items = values.map((one, index) => h("li", {}, names[index] ? `${names[index]}: ` : null, h("code", {}, JSON.stringify(one))));
    return h("div", { class: "examples" }, h("span", {}, "Examples"), h("ul", {}, items));
  }

  #properties() {
    const found = this.place === "body" ? Object.entries(this.schema.properties ?? {}) : [];
    if (!found.length) return null;
    const rows = found.map(([name, one]) =>
      h(
        "li",
        {},
        h("code", {}, name),
        ` ${typeOf(one)}${this.schema.required?.includes(name) ? ", required" : ""}. `,
        prose(one.description ?? ""),
      ),
    );
    return h("ul", { class: "properties" }, rows);
  }

  #input() {
    const about = `${this.id}-about`;
    const required = this.place === "path"; // all else may be left out, to see what is answered
    const shared = { id: this.id, name: this.name, required, "aria-describedby": about, autocomplete: "off" };
    if (this.isFile) return h("input", { ...shared, type: "file" });
    const type = [this.schema.type].flat()[0];
    const options = this.schema.enum ?? (type === "boolean" ? [true, false] : null);
    if (options) {
      const none = this.required ? [] : [h("option", { value: "" }, "—")];
      const all = options.map((one) => h("option", { value: one }, String(one)));
      const chosen = h("select", shared, none, all);
      if (this.required) chosen.value = String(example(this.schema));
      return chosen;
    }
    if (this.place === "body" || type === "object" || (type === "array" && this.place === "metadata")) {
      const area = h("textarea", { ...shared, rows: this.place === "body" ? 8 : 2, spellcheck: "false" });
      if (this.place === "body") area.value = JSON.stringify(example(this.schema), null, 2);
      return area;
    }
    const kind = this.schema.format === "password" ? "password" : "text";
    const line = h("input", { ...shared, type: kind, spellcheck: "false" });
    if (this.required && this.place !== "path") line.value = example(this.schema);
    return line;
  }
}

const PLACES = { path: "in the path", query: "in the query", header: "header", part: "part of the form", form: "in the form" };

/**
 * What the fields say, as a request that samples are made of and that is sent.
 *
 * A body is null or has a `kind`: "json" with `text`, "form" with `pairs`, "multipart" with
 * `parts`, each of `text`, `json` or `file` (a File; null while none is chosen) with `fileName`.
 */
export function requestOf(operation, fields) {
  const given = fields.filter((one) => one.isGiven);
  const at = (place) => given.filter((one) => one.place === place);
  const path = operation.path.replace(/\{(\w+)\}/g, (whole, name) => {
    const found = fields.find((one) => one.place === "path" && one.name === name);
    return found?.isGiven ? quoted(found.input.value) : whole;
  });
  const query = at("query").flatMap((one) => pairs(one)).map(([name, value]) => `${quoted(name)}=${quoted(value)}`);
  return {
    method: operation.method,
    target: path + (query.length ? `?${query.join("&")}` : ""),
    headers: at("header").map((one) => [one.name, one.input.value]),
    secured: operation.secured,
    streams: "text/event-stream" in (operation.responses[200]?.content ?? {}),
    body: bodyOf(operation, fields, at),
  };
}

/** Percent-encoded, the few characters too that shells and URLs see differently. */
function quoted(text) {
  return encodeURIComponent(text).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
}

function pairs(one) {
  const several = [one.schema.type].flat()[0] === "array";
  const values = several ? one.input.value.split(",").map((value) => value.trim()) : [one.input.value];
  return values.map((value) => [one.name, value]);
}

function bodyOf(operation, fields, at) {
  const type = operation.body?.mediaType;
  if (!type) return null;
  if (type === "multipart/form-data") return { kind: "multipart", parts: partsOf(fields, at) };
  if (type === "application/json") return { kind: "json", text: fields.find((one) => one.place === "body").input.value };
  const form = fields.filter((one) => one.place === "form" && (one.isGiven || SECRETS.includes(one.name)));
  return { kind: "form", pairs: form.map((one) => [one.name, one.input.value]) };
}

function partsOf(fields, at) {
  const metadata = Object.fromEntries(at("metadata").map((one) => [one.name, one.value]));
  const named = (name) => fields.find((one) => one.place === "part" && one.name === name);
  const url = named("signedUrl");
  const file = named("file");
  const chosen = file?.input.files[0] ?? null;
  const last = String(metadata.FileName ?? "").split(/[\\/]/).pop() || "filename.mp3";
  const media = url?.isGiven
    ? { name: "signedUrl", text: url.input.value }
    : { name: "file", file: chosen, fileName: chosen?.name ?? last };
  return [{ name: "metadata", json: metadata }, media];
}
