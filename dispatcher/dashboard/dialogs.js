// What is asked in a window of its own: start a task, join a node, are you sure.

import { get, send } from "./api.js";
import { copyable, h } from "./dom.js";

let opened = 0;

// The browser's own dialog keeps the focus inside, closes with Escape, and gives the focus back.
function open(title, body, footer) {
  opened += 1;
  const id = `dialog-title-${opened}`;
  const dialog = h("dialog", { "aria-labelledby": id }, h("header", {}, h("h2", { id }, title)), body, footer);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

const closer = (words) => h("button", { type: "button", on: { click: (event) => event.target.closest("dialog").close() } }, words);

export function confirmed(title, text, yes, no = "Keep it") {
  return new Promise((resolve) => {
    let sure = false;
    const accept = h("button", { type: "button", class: "danger", on: { click: () => {
      sure = true;
      dialog.close();
    } } }, yes);
    const dialog = open(title, h("div", { class: "body" }, h("p", {}, text)), h("footer", {}, closer(no), accept));
    dialog.addEventListener("close", () => resolve(sure));
  });
}

// `work(done)` does what the form is for; `done(title, content)` shows what came of it, `done()` closes.
export function formDialog({ title, submit, content, work, signal }) {
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const go = h("button", { type: "submit", class: "primary" }, submit);
  const form = h("form", { method: "dialog", novalidate: false },
    h("div", { class: "body" }, content, wrong), h("footer", {}, closer("Close"), go));
  const dialog = open(title, form, null);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    wrong.hidden = true;
    try {
      await work((newTitle, newContent) => {
        if (newTitle === undefined) {
          dialog.close();
          return;
        }
        dialog.querySelector("h2").textContent = newTitle;
        form.replaceChildren(h("div", { class: "body" }, newContent), h("footer", {}, closer("Done")));
      });
    } catch (error) {
      wrong.textContent = error.message;
      wrong.hidden = false;
    }
    go.disabled = false;
  });
  signal?.addEventListener("abort", () => dialog.close());
  return dialog;
}

export function startTask(functionId = "") {
  const choice = h("select", { id: "start-function", required: true }, h("option", { value: "" }, "Choose one …"));
  const body = h("textarea", { id: "start-body", spellcheck: "false", "aria-describedby": "start-body-hint", placeholder: '{"name": "Ada"}' });
  const query = h("input", { id: "start-query", autocomplete: "off", spellcheck: "false", placeholder: "a=1&b=2" });
  const hint = h("p", { class: "hint", id: "start-body-hint" }, "JSON, or nothing.");
  const check = () => {
    const problem = problemOf(body.value);
    body.setAttribute("aria-invalid", String(problem !== null));
    hint.className = problem === null ? "hint" : "wrong";
    hint.textContent = problem ?? "JSON, or nothing.";
    return problem === null;
  };
  body.addEventListener("blur", check);
  formDialog({
    title: "Start a task",
    submit: "Start",
    content: [
      h("div", { class: "field" }, h("label", { for: "start-function" }, "Function"), choice),
      h("div", { class: "field" }, h("label", { for: "start-body" }, "Input"), body, hint),
      h("div", { class: "field" }, h("label", { for: "start-query" }, "Query string"), query),
    ],
    async work(done) {
      if (choice.value === "") throw new Error("Choose a function.");
      if (!check()) {
        body.focus();
        return;
      }
      const asked = query.value.trim().replace(/^\?/, "");
      const path = `/v1/task/${choice.value}${asked === "" ? "" : `?${asked}`}`;
      const made = await send("POST", path, body.value.trim() === "" ? {} : { body: body.value, type: "application/json" });
      done();
      location.hash = `#/tasks/${made.id}`;
    },
  });
  get("/v1/function/list?limit=1000").then((functions) => {
    choice.append(...functions.map((one) => h("option", { value: one.id, disabled: one.image === "" }, one.image === "" ? `${one.name} (no image)` : one.name)));
    choice.value = functionId || (functions.length === 1 ? functions[0].id : "");
    if (functions.length === 0) choice.firstChild.textContent = "There is no function yet";
  }, (error) => { choice.firstChild.textContent = error.message; });
}

function problemOf(text) {
  if (text.trim() === "") return null;
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
}

export function joinNode() {
  formDialog({
    title: "Join a node",
    submit: "Make a join token",
    content: [
      h("p", {}, "A join token lets machines join this account for a day. On the machine, install fernd and give it the token; it opens the connection itself and needs no open port."),
    ],
    async work(done) {
      const made = await send("POST", "/v1/node/join-token");
      done("Run this on the machine", [
        copyable(`fernd agent join ${location.origin} --token ${made.token}`, "the command"),
        h("p", { class: "hint" }, "Then start the agent: systemctl start fernd-agent, or fernd agent. The token is shown this once and is good for a day."),
      ]);
    },
  });
}
