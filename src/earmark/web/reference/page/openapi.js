// Reads the served OpenAPI into what the page shows. Knows nothing of elements.

const METHODS = ["get", "head", "post", "put", "patch", "delete"];

/** The operations in the order of the document, Upload Media first. */
export async function load() {
  const answer = await fetch("/openapi.json", { credentials: "omit" });
  if (!answer.ok) throw new Error(`/openapi.json was answered with ${answer.status}`);
  const found = operations(await answer.json());
  return [...found].sort((a, b) => (b.id === "uploadMedia") - (a.id === "uploadMedia"));
}

/** Every operation of a document, its references followed. */
export function operations(document) {
  const follow = (value) => followed(document, value);
  return Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => operation(path, method, follow(item[method]))),
  );
}

function operation(path, method, told) {
  const [mediaType, content] = Object.entries(told.requestBody?.content ?? {})[0] ?? [null, {}];
  return {
    id: told.operationId,
    method: method.toUpperCase(),
    path,
    tag: told.tags?.[0] ?? "Other",
    summary: told.summary ?? told.operationId,
    description: told.description ?? "",
    secured: (told.security ?? []).length > 0,
    parameters: told.parameters ?? [],
    body: mediaType && { mediaType, schema: content.schema, encoding: content.encoding ?? {} },
    responses: told.responses,
  };
}

/** A value with every reference into the document replaced by what it names, once. */
function followed(document, value, within = []) {
  if (Array.isArray(value)) return value.map((one) => followed(document, one, within));
  if (value === null || typeof value !== "object") return value;
  if (typeof value.$ref === "string") {
    if (within.includes(value.$ref)) return {}; // it holds itself, as a tree does
    const named = value.$ref.slice(2).split("/").reduce((found, key) => found[key], document);
    return followed(document, { ...named, ...value, $ref: undefined }, [...within, value.$ref]);
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, one]) => [key, followed(document, one, within)]),
  );
}

/** The schema without its "or null". */
export function given(schema) {
  const [first] = (schema.anyOf ?? []).filter((one) => one.type !== "null");
  return first ? { ...schema, ...first, description: schema.description ?? first.description } : schema;
}

/** The type in a word. */
export function typeOf(schema) {
  const { type = "any", format } = given(schema);
  return [type].flat().join(" or ") + (format ? ` (${format})` : "");
}

/** A JSON value of a schema: its example, else one of its type with all that is required. */
export function example(schema) {
  const of = given(schema);
  const told = of.examples?.[0] ?? of.example ?? of.default ?? of.enum?.[0] ?? of.const;
  if (told !== undefined) return told;
  const type = [of.type].flat()[0];
  if (type === "object") {
    return Object.fromEntries((of.required ?? []).map((key) => [key, example(of.properties?.[key] ?? {})]));
  }
  if (type === "array") return of.items && of.minItems ? [example(of.items)] : [];
  if (of.format === "uuid") return "00000000-0000-0000-0000-000000000000";
  if (of.format === "date-time") return "2022-03-18T21:52:26Z";
  return { string: "text", integer: of.minimum ?? 0, number: 0, boolean: true }[type] ?? null;
}
