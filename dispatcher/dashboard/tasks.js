// Tasks: all of them, filtered, with bars that move.

import { h, setFact } from "./dom.js";
import { now, shortId, span } from "./format.js";
import { PagedList, cell, row } from "./list.js";
import { listen } from "./live.js";
import { empty, hasEnded, heading, loadNames, nodeName, progress, putFunctionName, setWhen, stateMark, taskState, when } from "./parts.js";
import { get } from "./api.js";
import { startTask } from "./dialogs.js";

const SIZE = 50;

const FILTERS = [
  ["", "All", () => true],
  ["active", "Under way", (task) => !hasEnded(task)],
  ["queued", "Waiting", (task) => task.state === "queued"],
  ["failed", "Failed", (task) => task.state === "finished" && task.status >= 400],
  ["finished", "Finished", (task) => task.state === "finished"],
  ["cancelled", "Cancelled", (task) => task.state === "cancelled"],
];

export const TASK_COLUMNS = [
  ["State"], ["Task"], ["Progress"], ["Node"], ["Created"], ["Took", "num"],
];

export function taskRow(task) {
  const mark = stateMark(taskState(task));
  const name = h("span");
  putFunctionName(name, task.functionId);
  const made = progress(task);
  const node = h("span", { class: "clip" });
  const took = h("span");
  const created = when(task.issued);
  const element = row(
    cell("fill", mark.element),
    cell("who full", [
      h("a", { class: "row clip", href: `#/tasks/${task.id}` }, name),
      h("span", { class: "under mono", title: task.id }, shortId(task.id)),
    ]),
    cell("wide full", made.element),
    cell("node", node, "on"),
    cell("nowrap soft", created, "created"),
    cell("num", took, "took"),
  );
  return {
    element,
    update(newer) {
      mark.update(taskState(newer));
      made.update(newer);
      setFact(node, newer.node === null ? null : nodeName(newer.node));
      node.title = newer.node ?? "";
      setWhen(created, newer.issued);
      setFact(took, duration(newer));
    },
  };
}

// Seconds are all that a list knows of a task's times.
function duration(task) {
  if (task.finished === null) return null;
  const seconds = Number(task.finished) - Number(task.issued);
  return seconds < 1 ? "< 1 s" : span(seconds);
}

export async function show(main, { query }, signal) {
  let [state, functionId] = [query.get("state") ?? "", query.get("function") ?? ""];
  const fits = (task) =>
    FILTERS.find(([key]) => key === state)[2](task) && (functionId === "" || task.functionId === functionId);

  const list = new PagedList({
    name: "Tasks", columns: TASK_COLUMNS, keyOf: (task) => task.id, make: taskRow, size: SIZE, signal,
    nothing: () => (state === "" && functionId === ""
      ? empty("No task yet", "A task is a function and its input.",
        h("button", { class: "primary", type: "button", on: { click: () => startTask() } }, "Start a task"))
      : empty("No such task", "Nothing fits this filter now.")),
  });
  const load = () => {
    const asked = new URLSearchParams({ limit: String(SIZE) });
    if (state !== "") asked.set("state", state);
    if (functionId !== "") asked.set("functionId", functionId);
    return list.show(`/v1/task/overview?${asked}`);
  };
  const remember = () => {
    const kept = new URLSearchParams();
    if (state !== "") kept.set("state", state);
    if (functionId !== "") kept.set("function", functionId);
    history.replaceState(null, "", `#/tasks${kept.size > 0 ? `?${kept}` : ""}`);
  };

  const chips = h("div", { class: "chips", role: "group", "aria-label": "State" },
    FILTERS.map(([key, title]) => h("button", {
      type: "button", "aria-pressed": String(key === state), "data-key": key,
      on: { click: () => choose(key) },
    }, title)));
  function choose(key) {
    state = key;
    for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.key === key));
    remember();
    load();
  }
  const functions = h("select", { "aria-label": "Function", on: { change: (event) => {
    functionId = event.target.value;
    remember();
    load();
  } } }, h("option", { value: "" }, "All functions"));
  get("/v1/function/list?limit=1000", signal).then((found) => {
    functions.append(...found.map((one) => h("option", { value: one.id }, one.name)));
    functions.value = functionId;
  }, () => {});

  main.replaceChildren(
    heading("Tasks"),
    h("div", { class: "filters" }, chips, functions),
    h("section", { class: "panel" }, list.element),
  );
  listen(signal, {
    tasks: (told) => {
      for (const task of told.toReversed()) {
        if (list.rows.has(task.id)) list.rows.update(task);
        else if (list.onFirstPage && fits(task) && isNew(task)) list.insert(task);
      }
    },
    reload: () => list.reload(),
  });
  loadNames();
  await load();
}

// One that is older than what is shown belongs on another page.
const isNew = (task) => now() - Number(task.issued) < 30 || !hasEnded(task);
