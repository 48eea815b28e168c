// Functions: how often they run, how long each phase takes, how many starts were cold, and what goes wrong.

import { get } from "./api.js";
import { h, setFact, unseen } from "./dom.js";
import { counted, ms, share } from "./format.js";
import { PagedList, Rows, cell, row, table } from "./list.js";
import { listen, quietly } from "./live.js";
import { startTask } from "./dialogs.js";
import { PHASES, empty, facts, heading, knowFunction, panel, phaseName, setWhen, when } from "./parts.js";
import { TASK_COLUMNS, taskRow } from "./tasks.js";

const SIZE = 25;
const REFRESH_MS = 10_000;

const COLUMNS = [["Function"], ["Under way", "num"], ["Finished", "num"], ["Failed", "num"], ["Wait p50 / p95", "num"],
  ["Run p50 / p95", "num"], ["Total p50 / p95", "num"], ["Cold", "num"], ["Last ended"]];

const both = (phase) => (phase === undefined ? null : `${ms(phase.p50)} / ${ms(phase.p95)}`);

function functionRow(one) {
  knowFunction(one.id, one.name);
  const values = COLUMNS.slice(1, -1).map(() => h("span"));
  const failed = values[2];
  const last = when(one.figures.lastFinished);
  const element = row(
    cell("who full", [
      h("a", { class: "row clip", href: `#/functions/${one.id}` }, one.name),
      h("span", { class: "under clip", title: one.image }, one.description || one.image || "no image yet"),
    ]),
    ...values.map((value, index) => cell("num", value, COLUMNS[index + 1][0].toLowerCase())),
    cell("nowrap soft", last, "last"),
  );
  return {
    element,
    update({ figures: { tasks, countedTo, recent, lastFinished } }) {
      const shown = [
        counted(tasks.waiting + tasks.running, countedTo),
        counted(tasks.finished, countedTo),
        counted(tasks.failed, countedTo),
        both(recent.phases?.queued),
        both(recent.phases?.running),
        both(recent.phases?.total),
        recent.coldShare === null ? null : share(recent.coldShare),
      ];
      shown.forEach((text, index) => setFact(values[index], text));
      failed.className = tasks.failed > 0 ? "state bad" : "";
      setWhen(last, lastFinished);
    },
  };
}

export async function show(main, _params, signal) {
  const list = new PagedList({
    name: "Functions", columns: COLUMNS, keyOf: (one) => one.id, make: functionRow, size: SIZE, signal,
    nothing: () => empty("No function yet", h("span", {}, "A function is an image and how to run it. Create one with ",
      h("code", {}, "fernd function create NAME --image IMAGE"), ".")),
  });
  main.replaceChildren(
    heading("Functions"),
    h("section", { class: "panel" }, list.element),
    h("p", { class: "soft small" }, "Times and shares are those of each function's newest 200 finished tasks."),
  );
  refreshNowAndThen(signal, () => list.reload());
  await list.show(`/v1/function/overview?limit=${SIZE}`);
}

// Figures are for trends: they are asked for again when tasks have changed, and not often.
function refreshNowAndThen(signal, refresh) {
  let moved = false;
  listen(signal, { tasks: () => { moved = true; }, reload: refresh });
  const timer = setInterval(() => {
    if (!moved || document.hidden) return;
    moved = false;
    quietly(refresh());
  }, REFRESH_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

export async function showOne(main, { id }, signal) {
  const one = await get(`/v1/function/${id}`, signal);
  knowFunction(id, one.name);
  const figures = h("div");
  const newest = table(`Newest tasks of ${one.name}`, TASK_COLUMNS);
  const tasks = new Rows(newest.body, (task) => task.id, taskRow);
  const none = h("div", { hidden: true }, empty("No task yet", "Start one: the button is above."));
  const start = h("button", { class: "primary", type: "button", on: { click: () => startTask(id) } }, "Start a task");
  main.replaceChildren(
    heading(one.name, { crumb: ["#/functions", "Functions"], actions: [start] }),
    one.description ? h("p", { class: "soft" }, one.description) : "",
    h("div", { class: "columns" },
      h("div", { class: "stack" }, figures,
        panel("Newest tasks", [none, h("div", { class: "scroll" }, newest.element)], h("a", { href: `#/tasks?function=${id}` }, "All of them"))),
      panel("How it runs", h("div", { class: "body" }, facts([
        ["Image", one.image ? h("code", {}, one.image) : "none yet: it cannot run"],
        ["Mode", one.mode],
        ["Network", one.network],
        ["Containers", one.reuse ? "kept warm for the next task" : "a new one for each task"],
        ["Retries", String(one.retries)],
        ["Timeout", `${one.capabilities.timeout} s`],
        ["Memory", `${one.capabilities.memSize || 256} MiB`],
        ["CPUs", String(one.capabilities.cpuCount || 1)],
        ["Environment", Object.keys(one.env).length > 0 ? Object.keys(one.env).join(", ") : null],
        ["Revision", String(one.revision)],
        ["Created", when(one.created)],
        ["Id", h("span", { class: "mono" }, id)],
      ])))),
  );
  async function load() {
    const [found, rows] = await Promise.all([
      get(`/v1/function/${id}/figures`, signal),
      get(`/v1/task/overview?functionId=${id}&limit=10`, signal).catch(() => []),
    ]);
    figures.replaceChildren(figuresOf(found));
    tasks.set(rows);
    none.hidden = rows.length > 0;
    newest.element.hidden = rows.length === 0;
  }
  listen(signal, { tasks: (told) => told.forEach((task) => {
    if (tasks.has(task.id)) tasks.update(task);
    else if (task.functionId === id && task.finished === null) {
      tasks.insert(task, 10);
      none.hidden = true;
      newest.element.hidden = false;
    }
  }) });
  refreshNowAndThen(signal, load);
  await load();
}

function figuresOf({ tasks, countedTo, recent }) {
  const tile = (name, value, kind = "") => h("div", { class: `tile ${kind}` }, h("span", { class: "name" }, name), h("span", { class: "value" }, value));
  const tiles = h("div", { class: "tiles" },
    tile("Under way", counted(tasks.waiting + tasks.running, countedTo)),
    tile("Finished", counted(tasks.finished, countedTo)),
    tile("Failed", counted(tasks.failed, countedTo), tasks.failed > 0 ? "bad" : ""),
    tile("Cold starts", recent.coldShare === null ? "–" : share(recent.coldShare)));
  if (recent.phases === null) return h("div", { class: "stack" }, tiles);
  const longest = Math.max(1, ...PHASES.map((phase) => recent.phases[phase].p95));
  const made = table("Time by phase", [["Phase"], [unseen("Share"), "long"], ["p50", "num"], ["p95", "num"]]);
  made.element.classList.remove("cards");
  made.body.append(...[...PHASES, "total"].map((phase) => {
    const { p50, p95 } = recent.phases[phase];
    const part = h("i", { class: phase });
    part.style.width = `${(100 * p95) / longest}%`;
    part.style.background = "var(--fill)";
    return row(
      cell("nowrap", phase === "total" ? h("b", {}, "Altogether") : phaseName(phase)),
      cell("long", phase === "total" ? "" : h("div", { class: "bar", "aria-hidden": "true" }, part)),
      cell("num", ms(p50)), cell("num", ms(p95)));
  }));
  const errors = Object.entries(recent.errors);
  return h("div", { class: "stack" }, tiles,
    panel("Time by phase", made.element, h("span", { class: "end soft" }, `newest ${recent.sample} finished`)),
    errors.length > 0 && panel("What went wrong", h("div", { class: "body" }, facts(errors.map(([code, count]) => [h("code", {}, code), `${count} of ${recent.sample}`])))));
}
