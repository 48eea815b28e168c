// A table that shows one page of a list, however long the list is, and changes only what is different.

import { page } from "./api.js";
import { h } from "./dom.js";
import { failure } from "./parts.js";

// Rows by key. `make(item)` gives an element and `update(item)`.
export class Rows {
  #made = new Map();

  constructor(body, keyOf, make) {
    this.body = body;
    this.keyOf = keyOf;
    this.make = make;
  }

  get size() {
    return this.#made.size;
  }

  has(key) {
    return this.#made.has(key);
  }

  set(items) {
    const kept = new Map();
    for (const item of items) {
      const key = this.keyOf(item);
      const row = this.#made.get(key) ?? this.make(item);
      row.update(item);
      kept.set(key, row);
    }
    this.#made = kept;
    const elements = [...kept.values()].map((row) => row.element);
    const same = elements.length === this.body.children.length
      && elements.every((element, index) => element === this.body.children[index]);
    if (!same) this.body.replaceChildren(...elements);
  }

  update(item) {
    this.#made.get(this.keyOf(item))?.update(item);
  }

  // Put a new one on top; the last one goes where there are more than fit.
  insert(item, most) {
    const row = this.make(item);
    row.update(item);
    this.#made = new Map([[this.keyOf(item), row], ...this.#made]);
    this.body.prepend(row.element);
    while (this.#made.size > most) {
      const [key, last] = [...this.#made].at(-1);
      this.#made.delete(key);
      last.element.remove();
    }
  }
}

export function table(name, columns) {
  const body = h("tbody", { role: "rowgroup" });
  const element = h("table", { class: "cards", role: "table", "aria-label": name },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(([title, kind]) =>
      h("th", { scope: "col", role: "columnheader", class: kind }, title)))),
    body);
  return { element, body };
}

// A cell. On a phone `name` stands before its content; "full" and "fill" say how much of the card's width it takes.
export const cell = (kind, content, name = null) =>
  h("td", { role: "cell", class: kind, "data-name": name }, content);

export const row = (...cells) => h("tr", { role: "row" }, cells);

export class PagedList {
  #path = null;
  #before = [];
  #next = null;
  #loading = null;

  // `nothing` is what stands in place of an empty list.
  constructor({ name, columns, keyOf, make, size, nothing, signal }) {
    const made = table(name, columns);
    this.size = size;
    this.nothing = nothing;
    this.signal = signal;
    this.rows = new Rows(made.body, keyOf, make);
    this.place = h("div", { class: "scroll" }, made.element);
    this.older = h("button", { type: "button", class: "plain", on: { click: () => this.#go(this.#next) } }, "Next");
    this.newer = h("button", { type: "button", class: "plain", on: { click: () => this.#back() } }, "Previous");
    this.where = h("span", { class: "soft small" });
    this.pager = h("div", { class: "pager" }, this.where, this.newer, this.older);
    this.message = h("div", { hidden: true });
    this.element = h("div", {}, this.message, this.place, this.pager);
  }

  get onFirstPage() {
    return this.#before.length === 0;
  }

  // Show a list from its beginning.
  async show(path) {
    this.#before = [];
    await this.#load(path);
  }

  reload() {
    return this.#load(this.#path);
  }

  #go(path) {
    if (path === null) return;
    this.#before.push(this.#path);
    this.#load(path);
  }

  #back() {
    if (this.#before.length > 0) this.#load(this.#before.pop());
  }

  async #load(path) {
    if (path === null) return;
    this.#path = path;
    this.#loading?.abort();
    const loading = (this.#loading = new AbortController());
    this.element.setAttribute("aria-busy", "true");
    try {
      const found = await page(path, AbortSignal.any([loading.signal, this.signal]));
      this.#next = found.next;
      this.rows.set(found.rows);
      this.#showMessage(found.rows.length === 0 ? this.nothing() : null);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#showMessage(failure(error, () => this.reload()));
    }
    this.element.setAttribute("aria-busy", "false");
    this.#showPager();
  }

  #showMessage(message) {
    this.message.replaceChildren(...(message === null ? [] : [message]));
    this.message.hidden = message === null;
    this.place.hidden = message !== null && this.rows.size === 0;
  }

  #showPager() {
    this.newer.disabled = this.onFirstPage;
    this.older.disabled = this.#next === null;
    this.pager.hidden = this.onFirstPage && this.#next === null;
    this.where.textContent = `Page ${this.#before.length + 1}`;
  }

  // Put a new one on top, where the beginning of the list is shown.
  insert(item) {
    this.#showMessage(null);
    this.rows.insert(item, this.size);
  }
}

