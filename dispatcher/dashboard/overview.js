// The first thing that is seen: how much there is, what moves, and what needs somebody.

import { get } from "./api.js";
import { joinNode, startTask } from "./dialogs.js";
import { h } from "./dom.js";
import { counted } from "./format.js";
import { Rows, table } from "./list.js";
import { listen, live } from "./live.js";
import { empty, hasEnded, heading, loadNames, panel } from "./parts.js";
import { TASK_COLUMNS, taskRow } from "./tasks.js";

const MOVING = 8;
const FAILED = 6;

export async function show(main, { who }, signal) {
  const sees = (scope) => who.scopes.includes(scope);
  const tiles = h("div", { class: "tiles" });
  const moving = new ShortList("Under way", "state=active", MOVING, (task) => !hasEnded(task), signal,
    () => empty("Nothing is under way", "Tasks that wait or run are shown here.",
      h("button", { class: "primary", type: "button", on: { click: () => startTask() } }, "Start a task")));
  const failed = new ShortList("Failed lately", "state=failed", FAILED, (task) => task.state === "finished" && task.status >= 400, signal,
    () => empty("Nothing has failed", "Tasks that ended without a good answer are shown here."));
  const reasons = h("div");

  main.replaceChildren(
    heading("Overview"),
    tiles,
    sees("tasks") ? moving.element : "",
    h("div", { class: "columns" }, sees("tasks") ? failed.element : "", sees("nodes") ? panel("Nodes that take no work", reasons) : ""),
  );
  const draw = (summary) => {
    tiles.replaceChildren(...tilesOf(summary));
    if (summary.nodes !== null) reasons.replaceChildren(reasonsOf(summary.nodes));
  };
  listen(signal, {
    summary: draw,
    tasks: (told) => [moving, failed].forEach((list) => list.tell(told)),
    reload: () => [moving, failed].forEach((list) => list.load()),
  });
  if (sees("tasks")) {
    loadNames();
    moving.load();
    failed.load();
  }
  draw(live.summary ?? await get("/v1/summary", signal));
}

function tilesOf({ tasks, lastHour, nodes, countedTo }) {
  const tile = (name, value, href, kind = "") =>
    h("a", { class: `tile ${kind}`, href }, h("span", { class: "name" }, name), h("span", { class: "value" }, value));
  const count = (value) => counted(value, countedTo);
  return [
    tasks && tile("Waiting", count(tasks.waiting), "#/tasks?state=queued", tasks.waiting > 0 && nodes?.available === 0 ? "warn" : ""),
    tasks && tile("Running", count(tasks.running), "#/tasks?state=active", tasks.running > 0 ? "run" : ""),
    tasks && tile("Finished, last hour", count(lastHour.finished), "#/tasks?state=finished"),
    tasks && tile("Failed, last hour", count(lastHour.failed), "#/tasks?state=failed", lastHour.failed > 0 ? "bad" : ""),
    nodes && tile("Nodes available", `${count(nodes.available)} / ${count(nodes.all - nodes.removed)}`, "#/nodes",
      nodes.available < nodes.all - nodes.removed ? "warn" : ""),
  ].filter(Boolean);
}

function reasonsOf({ all, removed, connected, available, reasons }) {
  const away = all - removed - connected;
  if (all - removed === 0) {
    return empty("No node yet", "Without a node, tasks wait.", h("button", { class: "primary", type: "button", on: { click: joinNode } }, "Join a node"));
  }
  if (available === all - removed) return empty("All nodes take work", `${available} of ${available}.`);
  const lines = Object.entries(reasons).map(([reason, count]) => [reason, count, "unavailable"]);
  if (away > 0) lines.push(["not connected", away, "away"]);
  return h("table", { "aria-label": "Reasons" }, h("tbody", {}, lines.map(([reason, count, state]) =>
    h("tr", {}, h("td", {}, h("a", { class: "row", href: `#/nodes?state=${state}` }, reason)), h("td", { class: "num" }, String(count))))));
}

// The newest few tasks of one kind. One that is no longer of the kind stays until the next load: its bar is seen to end.
class ShortList {
  constructor(title, filter, most, fits, signal, nothing) {
    const made = table(title, TASK_COLUMNS);
    this.filter = filter;
    this.most = most;
    this.fits = fits;
    this.signal = signal;
    this.rows = new Rows(made.body, (task) => task.id, taskRow);
    this.table = h("div", { class: "scroll", hidden: true }, made.element);
    this.nothing = h("div", { hidden: true }, nothing());
    this.element = panel(title, [this.nothing, this.table], h("a", { href: `#/tasks?${filter}` }, "All of them"));
    this.settle = null;
  }

  async load() {
    try {
      const found = await get(`/v1/task/overview?${this.filter}&limit=${this.most}`, this.signal);
      this.rows.set(found);
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    this.#show();
  }

  tell(told) {
    for (const task of told.toReversed()) {
      if (this.rows.has(task.id)) this.rows.update(task);
      else if (this.fits(task)) this.rows.insert(task, this.most);
      else continue;
      // What has ended gives its place to others, a moment after it was seen to end.
      if (!this.fits(task)) this.settle ??= setTimeout(() => {
        this.settle = null;
        this.load();
      }, 4000);
    }
    this.#show();
  }

  #show() {
    this.table.hidden = this.rows.size === 0;
    this.nothing.hidden = this.rows.size > 0;
  }
}
