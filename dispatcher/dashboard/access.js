// Tokens: who may come in. Each is shown once, when it is made.

import { send } from "./api.js";
import { confirmed, formDialog } from "./dialogs.js";
import { copyable, h, say, unseen } from "./dom.js";
import { PagedList, cell, row } from "./list.js";
import { empty, heading, when } from "./parts.js";

const SCOPES = [
  ["tasks", "start tasks, see them and cancel them"],
  ["functions", "create functions and change them"],
  ["nodes", "see nodes, join them and remove them"],
  ["admin", "tokens and accounts"],
];

const DAY = 86_400;
const LIVES = [["never", "", null], ["in a day", "1", DAY], ["in 30 days", "30", 30 * DAY], ["in a year", "365", 365 * DAY]];

export async function show(main, { who }, signal) {
  const list = new PagedList({
    name: "Tokens", columns: [["Name"], ["Scopes"], ["Created"], ["Expires"], [unseen("Actions")]],
    keyOf: (token) => token.id, make: (token) => tokenRow(token, who, () => list.reload()), size: 100, signal,
    nothing: () => empty("No token", "Make one for each program that speaks to this dispatcher."),
  });
  const load = () => list.show(`/v1/token/list?limit=100`);
  const create = h("button", { class: "primary", type: "button", on: { click: () => createToken(load) } }, "Make a token");
  main.replaceChildren(
    heading("Tokens", { actions: [create] }),
    h("p", { class: "soft" }, "A token stands for this account. Give each program its own, with no more scopes than it needs, so that one can be revoked alone."),
    h("section", { class: "panel" }, list.element),
  );
  await load();
}

function tokenRow(token, who, changed) {
  const mine = token.id === who.token;
  const revoke = h("button", { type: "button", class: "danger", "aria-label": `Revoke ${token.name}`, on: { click: async () => {
    const sure = await confirmed(`Revoke ${token.name}?`, mine
      ? "You are logged in with this token: you will be logged out at once."
      : "Whoever uses it is shut out at once. It cannot be taken back.", "Revoke");
    if (!sure) return;
    try {
      await send("DELETE", `/v1/token/${token.id}`);
      say("The token was revoked.");
      changed();
    } catch (error) {
      say(error.message, "bad");
    }
  } } }, "Revoke");
  const element = row(
    cell("who full", [h("b", {}, token.name), mine && h("span", { class: "under" }, "logged in with this one")]),
    cell("full", token.scopes.map((scope) => [h("span", { class: "pill" }, scope), " "]).flat()),
    cell("nowrap soft", when(token.created), "created"),
    cell("nowrap soft", token.expires === null ? "never" : when(token.expires), "expires"),
    cell("num last", revoke),
  );
  return { element, update: () => {} };
}

function createToken(changed) {
  const name = h("input", { id: "token-name", name: "name", required: true, maxlength: "64", autocomplete: "off", placeholder: "ci, laptop, grafana …" });
  const scopes = SCOPES.map(([scope, meaning]) => [scope,
    h("input", { type: "checkbox", name: "scope", value: scope, id: `scope-${scope}`, checked: scope === "tasks" }), meaning]);
  const life = h("select", { id: "token-life" }, LIVES.map(([words, value]) => h("option", { value }, words)));
  formDialog({
    title: "Make a token",
    submit: "Make it",
    content: [
      h("div", { class: "field" }, h("label", { for: "token-name" }, "Name"), name),
      h("fieldset", { class: "field choices" }, h("legend", { class: "label" }, "It may"),
        scopes.map(([scope, box, meaning]) => h("label", { for: box.id }, box, h("span", {}, h("b", {}, scope), `: ${meaning}`)))),
      h("div", { class: "field" }, h("label", { for: "token-life" }, "It expires"), life),
    ],
    async work(done) {
      const chosen = scopes.filter(([, box]) => box.checked).map(([scope]) => scope);
      if (chosen.length === 0) throw new Error("Choose one scope at least.");
      const seconds = LIVES.find(([, value]) => value === life.value)[2];
      const made = await send("POST", "/v1/token", { json: { name: name.value, scopes: chosen, ...(seconds && { expiresIn: seconds }) } });
      changed();
      done("This is the token", [
        h("p", {}, "It is shown this once. Keep it where secrets are kept."),
        copyable(made.token, "the token"),
      ]);
    },
  });
}
