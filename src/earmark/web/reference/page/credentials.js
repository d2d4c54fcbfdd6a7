// OAuth 2.0 client credentials, entered once. They live in this module alone: nothing is stored, and
// leaving or reloading the page forgets them.

import { h } from "./dom.js";
import { helpOf } from "./send.js";

const EARLY_SECONDS = 60; // a token is renewed as long before its end

let held = null;

/** A token that is valid now, or null if nobody signed in. */
export async function token() {
  if (held === null) return null;
  if (Date.now() > held.until) held = await granted(held.id, held.secret);
  return held.token;
}

/** Another token, in place of one that the server refuses before its time; null if nobody is signed in any more. */
export async function renewed() {
  if (held === null) return null;
  held = await granted(held.id, held.secret);
  return held.token;
}

/** The id and secret that were entered, or null. */
export function credentials() {
  return held && { client_id: held.id, client_secret: held.secret };
}

class RefusedError extends Error {
  constructor(message, help) {
    super(message);
    this.help = help;
  }
}

async function granted(id, secret) {
  const body = new URLSearchParams({ grant_type: "client_credentials", client_id: id, client_secret: secret });
  const asked = fetch("/connect/token", { method: "POST", body, credentials: "omit", cache: "no-store" });
  const answer = await asked.catch(() => {
    throw new RefusedError("No answer came from /connect/token; see that the server runs.");
  });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new RefusedError(told.error_description ?? `Status ${answer.status}`, helpOf(answer.headers.get("link")));
  }
  return { id, secret, token: told.access_token, until: Date.now() + (told.expires_in - EARLY_SECONDS) * 1000 };
}

/** Fills the section in which they are entered. */
export function offer(section) {
  const shared = { autocomplete: "off", spellcheck: "false", autocapitalize: "none", required: true };
  const id = h("input", { ...shared, id: "client-id", name: "client_id" });
  const secret = h("input", { ...shared, id: "client-secret", name: "client_secret", type: "password" });
  const status = h("p", { role: "status", id: "signed-in" }, "Not signed in.");
  const forget = h("button", { type: "button", click: forgotten, hidden: true }, "Forget");

  function forgotten() {
    held = null;
    id.value = secret.value = "";
    forget.hidden = true;
    status.replaceChildren("Not signed in.");
    id.focus();
  }

  async function signedIn(event) {
    event.preventDefault();
    status.replaceChildren("Signing in …");
    try {
      held = await granted(id.value.trim(), secret.value.trim());
      secret.value = "";
      forget.hidden = false;
      status.replaceChildren(`Signed in as ${held.id}.`);
    } catch (error) {
      const help = error.help ? h("a", { href: error.help, target: "_blank" }, "What this means") : null;
      status.replaceChildren(`${error.message} `, ...(help ? [help] : []));
    }
  }

  section.append(
    h("p", {}, "OAuth2 client credentials. They stay in this page's memory until you leave it."),
    h(
      "form",
      { submit: signedIn },
      h("label", { for: id.id }, "Client id"),
      id,
      h("label", { for: secret.id }, "Client secret"),
      secret,
      h("button", { type: "submit", class: "first" }, "Sign in"),
      forget,
    ),
    status,
  );
}
