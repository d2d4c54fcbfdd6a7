// The page: which operation is shown, and the list of all. The address after # says which.

import { offer } from "./credentials.js";
import { h } from "./dom.js";
import { load } from "./openapi.js";
import { OperationView } from "./operation.js";

const main = document.querySelector("main");
const menu = document.querySelector("#menu");

offer(document.querySelector("#credentials"));
const wide = matchMedia("(min-width: 60rem)");
const opened = () => (menu.open = wide.matches);
wide.addEventListener("change", opened);
opened();
start().catch((error) => main.replaceChildren(h("p", { role: "alert" }, `${error.message}. Reload the page.`)));

async function start() {
  const [operations, errors] = await Promise.all([load(), table()]);
  const views = new Map();
  const view = (operation) => {
    if (!views.has(operation.id)) views.set(operation.id, new OperationView(operation, errors));
    return views.get(operation.id);
  };
  const chosen = () => operations.find((one) => `#${one.id}` === location.hash) ?? operations[0];
  const show = (focus) => {
    const operation = chosen();
    const shown = view(operation);
    shown.refresh();
    main.replaceChildren(shown.element);
    document.title = `${operation.summary} · Earmark API`;
    for (const link of menu.querySelectorAll("a")) {
      if (link.hash === `#${operation.id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (focus) shown.element.querySelector("h2").focus();
    if (focus && !wide.matches) menu.open = false;
  };
  menu.querySelector("nav").append(...list(operations));
  addEventListener("hashchange", () => show(true));
  addEventListener("follow", ({ detail }) => {
    history.pushState(null, "", `#${detail.id}`);
    show(true);
    view(chosen()).run(detail.values);
  });
  show(false);
}

async function table() {
  const answer = await fetch("/docs/assets/errors.json", { credentials: "omit" });
  if (!answer.ok) throw new Error(`The table of errors was answered with ${answer.status}`);
  return answer.json();
}

function list(operations) {
  const tags = [...new Set(operations.map((one) => one.tag))];
  return tags.map((tag) =>
    h(
      "section",
      {},
      h("h2", {}, tag),
      h(
        "ul",
        {},
        operations
          .filter((one) => one.tag === tag)
          .map((one) => h("li", {}, h("a", { href: `#${one.id}` }, h("span", { class: "method" }, one.method), " ", one.summary))),
      ),
    ),
  );
}
