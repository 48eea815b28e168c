// What several views show: states, bars, times, phases, names.

import { get } from "./api.js";
import { h, setClass, setText } from "./dom.js";
import { ago, exact, ms, shortId } from "./format.js";

// States ------------------------------------------------------------------------------------------

const WORDS = {
  queued: ["idle", "Waiting"],
  offered: ["idle", "Offered"],
  accepted: ["run", "Accepted"],
  pulling: ["run", "Pulling image"],
  starting: ["run", "Starting"],
  running: ["run", "Running"],
  uploading: ["run", "Uploading"],
  cancelled: ["gone", "Cancelled"],
};

export const hasEnded = (task) => task.state === "finished" || task.state === "cancelled";

export function taskState(task) {
  if (task.state !== "finished") return WORDS[task.state] ?? ["idle", task.state];
  if (task.status < 400) return ["ok", `Answered ${task.status}`];
  return ["bad", task.error === null ? `Answered ${task.status}` : sentence(task.error)];
}

export function nodeState(node) {
  if (node.disabled) return ["gone", "Removed"];
  if (node.available) return ["ok", node.running > 0 ? "Working" : "Available"];
  return node.credit === null ? ["idle", "Away"] : ["warn", "Takes no work"];
}

const ERRORS = {
  TIMEOUT: "Timed out", OOM_KILLED: "Out of memory", RESULT_TOO_LARGE: "Answer too large", BAD_RESPONSE: "Bad answer",
};

const sentence = (code) => ERRORS[code] ?? code.charAt(0) + code.slice(1).toLowerCase().replaceAll("_", " ");

export function stateMark([tone, word]) {
  const words = h("span", {}, word);
  const element = h("span", { class: `state ${tone}` }, h("span", { class: "mark", "aria-hidden": "true" }), words);
  return {
    element,
    update([newTone, newWord]) {
      setClass(element, `state ${newTone}`);
      setText(words, newWord);
    },
  };
}

// Bars --------------------------------------------------------------------------------------------

export function bar(name) {
  const fill = h("i");
  const element = h("div", {
    class: "bar", role: "progressbar", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100",
  }, fill);
  return {
    element,
    update(percent, tone = "") {
      const whole = Math.max(0, Math.min(100, Math.round(percent)));
      setClass(element, `bar ${tone}`);
      element.setAttribute("aria-valuenow", String(whole));
      fill.style.width = `${whole}%`;
    },
  };
}

// How far a task is, with what it says of it.
export function progress(task, big = false) {
  const made = bar(`Progress of task ${task.id}`);
  const percent = h("span", { class: "percent" });
  const words = h("span", { class: big ? "words" : "words clip" });
  const element = h("div", { class: big ? "progress big" : "progress" }, made.element, percent, words);
  const update = (newer) => {
    const [tone] = taskState(newer);
    made.update(newer.progress, { gone: "idle", idle: "idle", run: "" }[tone] ?? tone);
    setText(percent, `${newer.progress}%`);
    const said = hasEnded(newer) ? "" : (newer.message ?? "");
    setText(words, said);
    words.hidden = said === "";
    words.title = said;
  };
  update(task);
  return { element, update };
}

// A share of something that has a size, such as the CPUs of a machine.
export function meter(name) {
  const made = bar(name);
  const words = h("small");
  const element = h("div", { class: "meter" }, made.element, words);
  return {
    element,
    update(part, text) {
      made.update(part * 100, part > 0.9 ? "bad" : part > 0.75 ? "warn" : "idle");
      setText(words, text);
    },
  };
}

// Times -------------------------------------------------------------------------------------------

export function when(epoch) {
  const element = h("time", {});
  setWhen(element, epoch);
  return element;
}

export function setWhen(element, epoch) {
  if (element.dataset.epoch === (epoch ?? "")) return;
  element.dataset.epoch = epoch ?? "";
  element.title = epoch === null ? "" : exact(epoch);
  setText(element, epoch === null ? "–" : ago(epoch));
}

setInterval(() => {
  if (document.hidden) return;
  for (const element of document.querySelectorAll("time[data-epoch]:not([data-epoch=''])")) {
    setText(element, ago(element.dataset.epoch));
  }
}, 5000);

// Phases ------------------------------------------------------------------------------------------

export const PHASES = ["queued", "pulling", "starting", "running", "uploading"];
const PHASE_NAMES = {
  queued: "Waited", pulling: "Image pull", starting: "Start", running: "Run", uploading: "Upload",
};
export const phaseName = (phase) => PHASE_NAMES[phase];

// Milliseconds by phase, as one bar cut in parts, and in words.
export function phases(spans, now = null) {
  const shown = PHASES.filter((phase) => (spans[phase] ?? 0) > 0 || phase === now);
  const total = shown.reduce((sum, phase) => sum + (spans[phase] ?? 0), 0);
  const parts = shown.map((phase) => {
    const part = h("i", { class: phase, title: `${phaseName(phase)} ${ms(spans[phase] ?? 0)}` });
    part.style.flexGrow = String(Math.max(spans[phase] ?? 0, total / 500, 0.01));
    return part;
  });
  const legend = shown.map((phase) =>
    h("li", { class: phase === now ? `${phase} now` : phase }, phaseName(phase), h("b", {}, ms(spans[phase] ?? 0))));
  return h("div", {},
    h("div", { class: "phases", "aria-hidden": "true" }, parts),
    h("ul", { class: "legend" }, legend));
}

// Names -------------------------------------------------------------------------------------------

const functionNames = new Map();
const nodeNames = new Map();
let asked = null;

// The names of the newest thousand functions; those of older ones are asked for as they are met.
export function loadNames() {
  asked ??= get("/v1/function/list?limit=1000").then(
    (functions) => functions.forEach((one) => functionNames.set(one.id, one.name)),
    () => { asked = null; },
  );
  return asked;
}

export function forgetNames() {
  asked = null;
  functionNames.clear();
  nodeNames.clear();
}

export const knowFunction = (id, name) => functionNames.set(id, name);
export const knowNode = (id, description) => nodeNames.set(id, description);
export const nodeName = (id) => nodeNames.get(id) || shortId(id);

const wanted = new Map();

// Write the name of a function into an element, now or when it is known.
export function putFunctionName(element, id) {
  setText(element, functionNames.get(id) ?? shortId(id));
  if (functionNames.has(id)) return;
  if (!wanted.has(id)) {
    wanted.set(id, loadNames().then(async () => {
      if (functionNames.has(id)) return;
      // One that was removed has no name any more: its id is shown.
      const found = await get(`/v1/function/${id}`).catch(() => null);
      functionNames.set(id, found?.name ?? shortId(id));
    }));
  }
  wanted.get(id).then(() => setText(element, functionNames.get(id) ?? shortId(id)));
}

// Frames ------------------------------------------------------------------------------------------

export function panel(title, content, end = null) {
  return h("section", { class: "panel" }, h("header", {}, h("h2", {}, title), end), content);
}

export function heading(title, { crumb = null, actions = [] } = {}) {
  return h("div", { class: "head" },
    crumb && h("p", { class: "crumb" }, h("a", { href: crumb[0] }, crumb[1])),
    h("h1", { tabindex: "-1" }, title),
    actions.length > 0 && h("div", { class: "actions" }, actions));
}

export function empty(title, text, action = null) {
  return h("div", { class: "empty" }, h("strong", {}, title), text, action && h("div", {}, action));
}

export function failure(error, again = null) {
  return h("div", { class: "notice bad", role: "alert" }, error.message,
    again && h("button", { type: "button", on: { click: again } }, "Try again"));
}

export const facts = (pairs) => h("dl", { class: "facts" },
  pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
