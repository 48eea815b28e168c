// Nodes: what each is, whether it takes work and why not, how busy it is, and what it runs.

import { get, send } from "./api.js";
import { confirmed, joinNode } from "./dialogs.js";
import { h, say, setFact, setText } from "./dom.js";
import { mib, shortId } from "./format.js";
import { PagedList, Rows, cell, row, table } from "./list.js";
import { listen } from "./live.js";
import { empty, facts, heading, knowNode, meter, nodeState, panel, putFunctionName, setWhen, stateMark, when } from "./parts.js";
import { TASK_COLUMNS, taskRow } from "./tasks.js";

const SIZE = 50;

const FILTERS = [["", "All"], ["available", "Available"], ["unavailable", "Take no work"], ["away", "Away"], ["removed", "Removed"]];

export const NODE_COLUMNS = [["State"], ["Node"], ["Running", "num"], ["CPU"], ["Memory"], ["Round trip", "num"], ["Last contact"]];

// What the stream tells of a node is laid over what was known of it.
export const newer = (node, told) => {
  const { connected, networkLatency, lastContact, ...others } = told;
  return {
    ...node, ...others,
    available: told.available && !node.disabled,
    reason: node.disabled ? "removed" : told.reason,
    lastContact: lastContact ?? node.lastContact,
    capabilities: connected ? { ...node.capabilities, networkLatency } : node.capabilities,
  };
};

const roundTrip = (node) => {
  const value = node.capabilities.networkLatency;
  return value === null ? "–" : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
};

const usedMemory = (node) =>
  node.capabilities.memSize > 0 ? 1 - Math.min(1, node.load.memoryFree / node.capabilities.memSize) : 0;

export function nodeRow(node) {
  knowNode(node.hash, node.description);
  const mark = stateMark(nodeState(node));
  const why = h("span", { class: "under" });
  const running = h("span");
  const cpu = meter(`CPU of node ${node.hash}`);
  const memory = meter(`Memory of node ${node.hash}`);
  const trip = h("span");
  const contact = when(node.lastContact);
  const name = h("a", { class: "row clip", href: `#/nodes/${node.hash}` });
  const element = row(
    cell("full", [mark.element, why]),
    cell("who full", [name, h("span", { class: "under mono", title: node.hash }, shortId(node.hash))]),
    cell("num", running, "running"),
    cell("half", cpu.element, "CPU"),
    cell("half", memory.element, "memory"),
    cell("num", trip, "round trip"),
    cell("nowrap soft", contact, "seen"),
  );
  let known = node;
  const update = (next) => {
    known = next;
    mark.update(nodeState(next));
    const reason = next.available || next.disabled || next.reason === "not connected" ? "" : next.reason;
    setText(why, reason);
    why.hidden = reason === "";
    setText(name, next.description || shortId(next.hash));
    setFact(running, next.credit === null ? null : String(next.running));
    for (const made of [cpu, memory]) {
      made.element.hidden = next.load === null;
      made.element.closest("td").classList.toggle("off", next.load === null);
    }
    if (next.load !== null) {
      cpu.update(next.load.cpuPercent / 100, `${Math.round(next.load.cpuPercent)} %`);
      memory.update(usedMemory(next), `${mib(next.load.memoryFree)} free`);
    }
    setFact(trip, next.credit === null ? null : roundTrip(next));
    setWhen(contact, next.lastContact);
  };
  return { element, update: (next) => update("capabilities" in next ? next : newer(known, next)) };
}

export async function show(main, { query }, signal) {
  let [state, words] = [query.get("state") ?? "", ""];
  const join = h("button", { class: "primary", type: "button", on: { click: joinNode } }, "Join a node");
  const list = new PagedList({
    name: "Nodes", columns: NODE_COLUMNS, keyOf: (node) => node.hash, make: nodeRow, size: SIZE, signal,
    nothing: () => (state === "" && words === ""
      ? empty("No node yet", "A node is a machine that runs tasks. Make a join token, and use it on the machine.",
        h("button", { class: "primary", type: "button", on: { click: joinNode } }, "Join a node"))
      : empty("No such node", "Nothing fits this filter now.")),
  });
  const load = () => {
    const asked = new URLSearchParams({ limit: String(SIZE) });
    if (state !== "") asked.set("state", state);
    if (words !== "") asked.set("search", words);
    return list.show(`/v1/node/list?${asked}`);
  };
  const chips = h("div", { class: "chips", role: "group", "aria-label": "State" },
    FILTERS.map(([key, title]) => h("button", {
      type: "button", "aria-pressed": String(key === state), "data-key": key,
      on: { click: () => {
        state = key;
        for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.key === key));
        history.replaceState(null, "", key === "" ? "#/nodes" : `#/nodes?state=${key}`);
        load();
      } },
    }, title)));
  let typed = null;
  const search = h("input", { class: "search", type: "search", placeholder: "Find by name or id", "aria-label": "Find nodes", on: {
    input: (event) => {
      clearTimeout(typed);
      typed = setTimeout(() => {
        words = event.target.value.trim();
        load();
      }, 250);
    },
  } });
  main.replaceChildren(
    heading("Nodes", { actions: [join] }),
    h("div", { class: "filters" }, chips, search),
    h("section", { class: "panel" }, list.element),
  );
  listen(signal, {
    nodes: (told) => told.forEach((node) => list.rows.update(node)),
    reload: () => list.reload(),
  });
  await load();
}


export async function showOne(main, { id }, signal) {
  let node = await get(`/v1/node/${id}`, signal);
  knowNode(id, node.description);
  const mark = stateMark(nodeState(node));
  const why = h("span", { class: "soft" });
  const cpu = meter("CPU");
  const memory = meter("Memory");
  const known = h("div", { class: "body" });
  const warm = h("ul", { class: "legend" });
  const change = h("button", { type: "button", on: { click: () => (node.disabled ? restore() : remove()) } });
  const held = table("Tasks on this node", TASK_COLUMNS);
  const tasks = new Rows(held.body, (task) => task.id, taskRow);
  const none = h("div", {}, empty("Nothing runs here now", "Tasks of this account that the node holds are shown here."));

  function draw() {
    mark.update(nodeState(node));
    setText(why, node.available || node.disabled ? "" : node.reason);
    setText(change, node.disabled ? "Restore" : "Remove");
    change.className = node.disabled ? "" : "danger";
    for (const made of [cpu, memory]) made.element.hidden = node.load === null;
    if (node.load !== null) {
      cpu.update(node.load.cpuPercent / 100, `${Math.round(node.load.cpuPercent)} % of ${node.capabilities.cpuCount} CPUs`);
      memory.update(usedMemory(node), `${mib(node.load.memoryFree)} of ${mib(node.capabilities.memSize)} free`);
    }
    known.replaceChildren(facts([
      ["CPU", node.load === null ? `${node.capabilities.cpuCount} CPUs` : cpu.element],
      ["Memory", node.load === null ? mib(node.capabilities.memSize) : memory.element],
      ["Room for", node.credit && `${node.credit.slots} tasks, ${node.credit.cpu} CPUs, ${mib(node.credit.memory)}`],
      ["Round trip", roundTrip(node)],
      ["Clock", node.clockOffset === null ? null : `${node.clockOffset.toFixed(1)} ms from the dispatcher's`],
      ["Privileged", node.capabilities.privileged ? "allowed" : "not allowed"],
      ["Version", node.version],
      ["Joined", when(node.joined)],
      ["Last contact", when(node.lastContact)],
      ["Id", h("span", { class: "mono" }, node.hash)],
    ]));
    const shown = node.warm.slice(0, 40).map((key) => {
      const name = h("a", { href: `#/functions/${key.split(".")[0]}` });
      putFunctionName(name, key.split(".")[0]);
      return h("li", { class: "running" }, name);
    });
    warm.replaceChildren(...(shown.length > 0 ? shown : [h("li", { class: "queued" }, "No container is warm.")]));
  }
  async function remove() {
    const sure = await confirmed("Remove this node?", "Its session closes at once and its tasks go back to the queue. It can be restored.", "Remove");
    if (sure) await changed(() => send("DELETE", `/v1/node/${id}`), "The node was removed.");
  }
  const restore = () => changed(() => send("PATCH", `/v1/node/${id}`, { json: { disabled: false } }), "The node was restored.");
  async function changed(work, words) {
    try {
      await work();
      say(words);
      await reload();
    } catch (error) {
      say(error.message, "bad");
    }
  }
  async function reload() {
    node = await get(`/v1/node/${id}`, signal);
    draw();
    await loadTasks();
  }
  async function loadTasks() {
    const found = await get(`/v1/node/${id}/tasks?limit=100`, signal).catch(() => []);
    tasks.set(found);
    none.hidden = found.length > 0;
    held.element.hidden = found.length === 0;
  }

  main.replaceChildren(
    heading(node.description || shortId(id), { crumb: ["#/nodes", "Nodes"], actions: [change] }),
    h("p", {}, mark.element, " ", why),
    h("div", { class: "columns" },
      panel("Running now", [none, h("div", { class: "scroll" }, held.element)]),
      h("div", { class: "stack" }, panel("Machine", known), panel("Warm functions", h("div", { class: "body" }, warm)))),
  );
  listen(signal, {
    nodes: (told) => {
      const mine = told.find((one) => one.hash === id);
      if (mine === undefined) return;
      node = newer(node, mine);
      draw();
    },
    tasks: (told) => {
      // One that came here, or that was here and went on, changes the list; others only their own row.
      if (told.some((task) => task.node === id ? !tasks.has(task.id) || task.finished !== null : tasks.has(task.id))) loadTasks();
      else told.forEach((task) => tasks.update(task));
    },
    reload,
  });
  draw();
  await loadTasks();
}
