// One task: where it stands, where its time went, what it wrote, and what it answered.

import { call, get, send } from "./api.js";
import { confirmed, startTask } from "./dialogs.js";
import { h, say, setText } from "./dom.js";
import { bytes, now, shortId } from "./format.js";
import { listen, live } from "./live.js";
import { facts, hasEnded, heading, nodeName, panel, phases, progress, putFunctionName, stateMark, taskState, when } from "./parts.js";

const LINES = 2000; // of a log that are shown while it grows
const SHOWN = 256 * 1024; // bytes of a log, and of a result

export async function show(main, { id }, signal) {
  let task = { ...(await get(`/v1/task/${id}`, signal)), message: "" };
  const clock = new PhaseClock(task);

  const mark = stateMark(taskState(task));
  const made = progress(task, true);
  const pull = h("p", { class: "soft small", hidden: true });
  const why = h("p", { hidden: true });
  const timeline = h("div");
  const known = h("div", { class: "body" });
  const log = new LogView(id, signal);
  const result = h("div", { class: "body" }, h("p", { class: "soft" }, "The answer is shown here when the task has ended."));
  const name = h("a", { href: `#/functions/${task.functionId}` });
  putFunctionName(name, task.functionId);
  const cancel = h("button", { type: "button", class: "danger", on: { click: askToCancel } }, "Cancel task");
  const again = h("button", { type: "button", on: { click: () => startTask(task.functionId) } }, "Start another");

  main.replaceChildren(
    heading(h("span", {}, "Task ", h("span", { class: "mono", title: id }, shortId(id))), { crumb: ["#/tasks", "Tasks"], actions: [again, cancel] }),
    h("section", { class: "panel" }, h("div", { class: "body stack" },
      h("div", {}, mark.element, " ", h("span", { class: "soft" }, "· ", name), made.element, pull, why),
      timeline)),
    h("div", { class: "columns" },
      h("div", { class: "stack" }, log.element, panel("Answer", result)),
      panel("Details", known)),
  );

  async function askToCancel() {
    const sure = await confirmed("Cancel this task?", "The function is stopped, and the task ends without an answer.", "Cancel task", "Let it run");
    if (!sure) return;
    try {
      await send("DELETE", `/v1/task/${id}`);
      say("The task was cancelled.");
    } catch (error) {
      say(error.message, "bad");
    }
  }

  function draw() {
    const ended = hasEnded(task);
    mark.update(taskState(task));
    made.update(task);
    cancel.hidden = ended;
    pull.hidden ||= ended;
    why.hidden = !task.detail;
    setText(why, task.detail ?? "");
    const [spans, now] = clock.spans(task);
    timeline.replaceChildren(phases(spans, now));
    known.replaceChildren(facts([
      ["Node", task.node && h("a", { href: `#/nodes/${task.node}`, class: "mono" }, nodeName(task.node))],
      ["Created", when(task.issued)],
      ["Assigned", task.assigned && when(task.assigned)],
      ["Ended", task.finished && when(task.finished)],
      ["Attempt", String(task.attempt)],
      ["Start", task.cold === null ? null : task.cold ? "cold: a container was started" : "warm: a container was there"],
      ["Timeout", `${task.timeout} s`],
      ["Asks for", asksFor(task.capabilities)],
      ["Status", task.status || null],
      ["Error", task.error && h("code", {}, task.error)],
      ["What happened", task.ending?.replaceAll("_", " ")],
      ["Id", h("span", { class: "mono" }, id)],
    ]));
  }

  let told = false; // the end, with log and answer
  async function reload() {
    task = { ...task, ...(await get(`/v1/task/${id}`, signal)) };
    draw();
    if (!hasEnded(task) || told) return;
    told = true;
    await Promise.all([log.showWhole(), showAnswer(result, task, signal)]);
  }

  live.watch(id);
  signal.addEventListener("abort", () => live.watch(null));
  listen(signal, {
    tasks: (rows) => {
      const row = rows.find((one) => one.id === id);
      if (row === undefined || hasEnded(task)) return;
      const { functionId, ...changed } = row;
      task = { ...task, ...changed };
      if (hasEnded(task)) return reload();
      draw();
    },
    task: (event) => {
      if (event.kind === "log") log.add(event.stream, event.line);
      else if (event.kind === "progress") {
        task = { ...task, progress: Math.max(task.progress, event.progress), message: event.message };
        draw();
      } else if (event.kind === "pull") showPull(pull, event);
      else if (event.kind === "end") return reload();
      else if (event.kind === "state") clock.enter(event.state, event.at);
      else if (event.kind === "phase") {
        pull.hidden = event.phase !== "pulling";
        clock.enter(event.phase, event.at);
        task.state = event.phase;
        draw();
      }
    },
    reload,
  });
  const tick = setInterval(() => !hasEnded(task) && !document.hidden && draw(), 1000);
  signal.addEventListener("abort", () => clearInterval(tick));
  draw();
  await reload();
}

// How long a task has been in which phase, by what was told of it; when it has ended, as its node measured it.
class PhaseClock {
  #marks = []; // [phase, when it began in ms], in order

  constructor(task) {
    this.#marks.push(["queued", Number(task.issued) * 1000]);
  }

  // `at` is missing where the dispatcher has forgotten it: then it is known from now on.
  enter(phase, at = now() * 1000) {
    // A task that is back in the queue begins anew.
    if (phase === "queued") this.#marks = [];
    if (this.#marks.at(-1)?.[0] !== phase) this.#marks.push([phase, at]);
  }

  spans(task) {
    if (task.spans !== null) return [task.spans, null];
    const end = hasEnded(task) ? Number(task.finished) * 1000 : now() * 1000;
    const spans = {};
    this.#marks.forEach(([phase, start], index) => {
      const until = this.#marks[index + 1]?.[1] ?? end;
      spans[phase] = (spans[phase] ?? 0) + Math.max(0, until - start);
    });
    return [spans, hasEnded(task) ? null : this.#marks.at(-1)[0]];
  }
}

// The lines of a task as they come, then its whole log as the dispatcher keeps it.
class LogView {
  #size = h("span", { class: "end soft" });
  #text = h("pre", { class: "log", role: "log", tabindex: "0", "aria-label": "Log" });
  #whole = false;

  constructor(id, signal) {
    this.path = `/v1/task/${id}/logs`;
    this.signal = signal;
    this.element = panel("Log", this.#text, this.#size);
    this.#text.append(h("span", { class: "nothing soft" }, "Nothing was written yet."));
  }

  add(stream, line) {
    if (this.#whole) return;
    this.#text.querySelector(".nothing")?.remove();
    const below = this.#text.scrollHeight - this.#text.scrollTop - this.#text.clientHeight < 24;
    this.#text.append(h("span", { class: stream }, `${line}\n`));
    while (this.#text.childElementCount > LINES) this.#text.firstElementChild.remove();
    if (below) this.#text.scrollTop = this.#text.scrollHeight;
  }

  async showWhole() {
    const answer = await call("GET", this.path, { signal: this.signal });
    if (!answer.ok) return;
    const text = await answer.text();
    this.#whole = true;
    const rest = text.length - SHOWN;
    this.#text.replaceChildren(...(text === "" ? [h("span", { class: "soft" }, "Nothing was written.")] : [
      rest > 0 && h("span", { class: "gap" }, `… ${bytes(rest)} before this are in the whole log …\n`),
      text.slice(-SHOWN),
    ].filter(Boolean)));
    setText(this.#size, text === "" ? "" : bytes(text.length));
    if (rest > 0) this.#size.replaceChildren(h("a", { href: this.path, target: "_blank", rel: "noopener" }, `Whole log, ${bytes(text.length)}`));
  }
}

function showPull(element, { done, total }) {
  element.hidden = false;
  setText(element, total ? `Image: ${bytes(done)} of ${bytes(total)}` : `Image: ${bytes(done)}`);
}

// What a function answered is shown as text, whatever it says that it is.
async function showAnswer(place, task, signal) {
  if (task.error !== null) {
    place.replaceChildren(h("p", {}, h("code", {}, task.error), " ", task.detail ?? ""));
    return;
  }
  const path = `/v1/task/${task.id}/result`;
  const answer = await call("GET", path, { signal });
  if (answer.headers.get("X-Task-State") === null) return;
  const type = answer.headers.get("Content-Type") ?? "no type";
  const whole = h("a", { href: path, download: `result-${task.id}` }, "Download");
  const content = await firstOf(answer);
  const text = /^(text\/|application\/([^;]*\+)?(json|xml|javascript)|application\/x-www-form)/.test(type)
    ? new TextDecoder().decode(content) : null;
  place.replaceChildren(
    h("p", { class: "soft small" }, `${answer.status} · ${type} · ${bytes(content.length)}${content.length >= SHOWN ? " or more" : ""} · `, whole),
    text === null ? h("p", { class: "soft" }, "This is no text.") : text === "" ? h("p", { class: "soft" }, "It is empty.")
      : h("pre", { class: "log", tabindex: "0", "aria-label": "Answer" }, pretty(text, type)),
  );
}

async function firstOf(answer) {
  const reader = answer.body?.getReader();
  const pieces = [];
  let size = 0;
  while (reader !== undefined && size < SHOWN) {
    const { done, value } = await reader.read();
    if (done) break;
    pieces.push(value);
    size += value.length;
  }
  reader?.cancel();
  return new Uint8Array(await new Blob(pieces).arrayBuffer()).slice(0, SHOWN);
}

function pretty(text, type) {
  if (!type.includes("json")) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // cut off, or no JSON after all
  }
}

function asksFor({ cpuCount, memSize, networkLatency, privileged }) {
  return [
    cpuCount > 0 && `${cpuCount} CPUs`,
    memSize > 0 && `${memSize} MiB`,
    networkLatency > 0 && `${networkLatency} ms round trip`,
    privileged && "privileged",
  ].filter(Boolean).join(", ") || "nothing special";
}
