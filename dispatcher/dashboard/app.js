// Who is here, which view is shown, and the frame around it.

import { logIn, logOut, onSignedOut, whoAmI } from "./api.js";
import * as access from "./access.js";
import { startTask } from "./dialogs.js";
import { h, say, setText } from "./dom.js";
import { counted } from "./format.js";
import * as functions from "./functions.js";
import { live } from "./live.js";
import * as nodes from "./nodes.js";
import * as overview from "./overview.js";
import { empty, failure, forgetNames, heading } from "./parts.js";
import * as task from "./task.js";
import * as tasks from "./tasks.js";

// Each view, by the address behind the #, with the scopes of which one is needed to see it.
const VIEWS = [
  [/^\/$/, overview.show, "Overview", ["tasks", "functions", "nodes", "admin"]],
  [/^\/nodes$/, nodes.show, "Nodes", ["nodes"]],
  [/^\/nodes\/(?<id>[0-9a-f-]{36})$/, nodes.showOne, "Node", ["nodes"]],
  [/^\/tasks$/, tasks.show, "Tasks", ["tasks"]],
  [/^\/tasks\/(?<id>[0-9a-f]{24})$/, task.show, "Task", ["tasks"]],
  [/^\/functions$/, functions.show, "Functions", ["tasks", "functions"]],
  [/^\/functions\/(?<id>[0-9a-f]{24})$/, functions.showOne, "Function", ["tasks", "functions"]],
  [/^\/tokens$/, access.show, "Tokens", ["admin"]],
];

const TABS = [["#/", "Overview"], ["#/nodes", "Nodes"], ["#/tasks", "Tasks"], ["#/functions", "Functions"], ["#/tokens", "Tokens"]];

const main = document.getElementById("main");
const tabs = document.getElementById("tabs");
const session = document.getElementById("session");
const linkState = h("span", { class: "link-state", role: "status" });
const counts = new Map();

let who = null;
let shown = new AbortController();

const may = (scopes) => who !== null && scopes.some((scope) => who.scopes.includes(scope));

async function route() {
  if (who === null) return;
  const [path, asked] = (location.hash.slice(1) || "/").split("?");
  shown.abort();
  shown = new AbortController();
  const { signal } = shown;
  markTab(path);
  const view = VIEWS.find(([pattern]) => pattern.test(path));
  if (view === undefined) {
    main.replaceChildren(empty("There is no such page", h("a", { href: "#/" }, "To the overview")));
    return;
  }
  const [pattern, show, title, scopes] = view;
  document.title = `${title} · fernd`;
  if (!may(scopes)) {
    main.replaceChildren(heading(title), empty("This token does not reach here", `It needs the scope ${scopes.join(" or ")}.`));
    return;
  }
  main.setAttribute("aria-busy", "true");
  try {
    await show(main, { ...pattern.exec(path).groups, query: new URLSearchParams(asked), who }, signal);
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted) main.replaceChildren(heading(title), failure(error, route));
  }
  if (!signal.aborted) main.removeAttribute("aria-busy");
}

// The address changed because somebody went elsewhere: what is read out next is the new view's heading.
async function go() {
  await route();
  scrollTo(0, 0);
  main.querySelector("h1")?.focus({ preventScroll: true });
}

function markTab(path) {
  for (const tab of tabs.children) {
    const target = tab.getAttribute("href").slice(1);
    const here = target === "/" ? path === "/" : path.startsWith(target);
    if (here) {
      tab.setAttribute("aria-current", "page");
      tab.scrollIntoView({ block: "nearest", inline: "nearest" }); // on a phone the row of tabs may be too long
    } else tab.removeAttribute("aria-current");
  }
}

function frame() {
  tabs.replaceChildren(...TABS.filter(([address]) => may(VIEWS.find(([pattern]) => pattern.test(address.slice(1)))[3])).map(([address, name]) => {
    const count = h("span", { class: "count", hidden: true });
    counts.set(name, count);
    return h("a", { href: address }, name, count);
  }));
  session.replaceChildren(
    linkState,
    h("span", { class: "who-am-i small soft clip", title: `Account ${who.accountName}, token ${who.tokenName}` }, who.accountName),
    may(["tasks"]) ? h("button", { type: "button", class: "primary", on: { click: () => startTask() } }, "Start a task") : "",
    h("button", { type: "button", class: "plain", on: { click: leave } }, "Log out"),
  );
  tabs.hidden = session.hidden = false;
}

live.addEventListener("link", ({ detail }) => {
  linkState.className = `link-state ${detail}`;
  setText(linkState, { live: "Live", lost: "Reconnecting …", connecting: "Connecting …" }[detail] ?? "Paused");
});
live.addEventListener("summary", ({ detail: { tasks: all, nodes: there, countedTo } }) => {
  const put = (name, value) => {
    const element = counts.get(name);
    if (element === undefined) return;
    element.hidden = value === null;
    if (value !== null) setText(element, value);
  };
  put("Tasks", all && all.waiting + all.running > 0 ? counted(all.waiting + all.running, countedTo) : null);
  put("Nodes", there && there.all > 0 ? counted(there.available, countedTo) : null);
});
// The stream was refused: the session may have ended. Where the dispatcher is away, that shows nothing.
live.addEventListener("refused", async () => {
  if (await whoAmI().catch(() => who) === null) signedOut();
});

function signedOut() {
  if (who === null) return;
  showDoor();
  say("The session has ended. Log in again.");
}

async function leave() {
  try {
    await logOut();
  } catch (error) {
    if (error.status !== 401) {
      say(error.message, "bad");
      return;
    }
  }
  showDoor();
}

function showDoor() {
  who = null;
  shown.abort();
  live.close();
  forgetNames();
  tabs.hidden = session.hidden = true;
  document.title = "Log in · fernd";
  const token = h("input", { id: "token", name: "token", type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  const wrong = h("p", { class: "wrong", role: "alert", hidden: true });
  const enter = h("button", { type: "submit", class: "primary" }, "Log in");
  // With scripts, the form is never sent by itself; `post` keeps the token out of addresses in any case.
  const form = h("form", { method: "post", action: "/v1/session" },
    // Password managers ask for a name that goes with a secret.
    h("input", { type: "text", name: "username", autocomplete: "username", value: "fernd", hidden: true, readOnly: true }),
    h("label", { for: "token" }, "Token"), token, wrong, enter);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    enter.disabled = true;
    wrong.hidden = true;
    try {
      await logIn(token.value.trim());
      await enterWith(await whoAmI());
    } catch (error) {
      wrong.hidden = false;
      setText(wrong, error.status === 401 ? "This token is not known, or has expired." : error.message);
      token.setAttribute("aria-invalid", "true");
      token.focus();
    }
    enter.disabled = false;
  });
  main.replaceChildren(h("div", { class: "door" }, h("div", { class: "panel" },
    h("h1", { tabindex: "-1" }, "Log in"),
    h("p", { class: "soft" }, "Nodes, tasks and functions of your account."),
    form,
    h("details", {}, h("summary", {}, "Where is my token?"),
      h("p", {}, "The first one is in the file ", h("code", {}, "api-token"), " of the dispatcher's data directory, such as ",
        h("code", {}, "/var/lib/fernd/api-token"), ". Whoever runs the dispatcher makes others.")))));
  token.focus();
}

async function enterWith(found) {
  who = found;
  frame();
  live.open();
  await go();
}

async function start() {
  onSignedOut(signedOut);
  addEventListener("hashchange", go);
  try {
    who = await whoAmI();
  } catch (error) {
    main.replaceChildren(failure(error, start));
    return;
  }
  if (who === null) {
    showDoor();
    return;
  }
  frame();
  live.open();
  await route();
}

start();
