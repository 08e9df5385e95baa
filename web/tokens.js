// What the page of tokens does: it asks the API beside it, and shows a new token
// once. Everything that it shows is set as text.
"use strict";

// An address that was typed with a name and a password in it is none that may be
// fetched, nor is one relative to it.
const page = location.origin + location.pathname;
const api = new URL("api/v1/tokens", page).href;
const byId = (id) => document.getElementById(id);

async function ask(method, path, body) {
  const request = { method, cache: "no-store", headers: {} };
  if (body !== undefined) {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  const answer = await fetch(path, request);
  if (answer.status === 204) return null;
  const type = answer.headers.get("Content-Type") || "";
  const said = type.startsWith("application/json") ? await answer.json() : {};
  if (!answer.ok) throw new Error(said.error || "the server answered " + answer.status);
  return said;
}

function complain(error) {
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
}

// The table is the server's: after a change it is taken from a new page.
async function refresh() {
  const answer = await fetch(page, { cache: "no-store" });
  if (!answer.ok) throw new Error("the server answered " + answer.status);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const last = (of) => of.querySelector("main").lastElementChild;
  last(document).replaceWith(document.importNode(last(fresh), true));
}

byId("create").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const wanted = { label: value("label"), path: value("path"), write: value("write") === "1" };
  if (value("share")) wanted.shares = [value("share")];
  if (value("days")) wanted.expires = new Date(Date.now() + value("days") * 86400e3).toISOString();
  byId("problem").hidden = true;
  try {
    const made = await ask("POST", api, wanted);
    byId("secret").textContent = made.token;
    byId("made").hidden = false;
    form.reset();
    await refresh();
  } catch (error) {
    complain(error);
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.revoke");
  if (!button || !confirm("Revoke “" + button.dataset.label + "”? What uses it will be refused.")) return;
  byId("problem").hidden = true;
  try {
    await ask("DELETE", api + "/" + encodeURIComponent(button.dataset.id));
    await refresh();
  } catch (error) {
    complain(error);
  }
});

byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("secret").textContent);
    byId("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("secret")); // plain HTTP has no clipboard
  }
});
