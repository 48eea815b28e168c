// One stream of events for everything that is shown. It heals itself: after a break, or when more happened than
// was told, whoever listens is asked to load anew what it shows.

import { say } from "./dom.js";

const RELOAD_MS = 2000;

class Live extends EventTarget {
  #source = null;
  #task = null;
  #reload = null;
  #reloaded = 0;
  #opened = false;
  #before = false; // there was a stream: what happened since it ended is not known
  summary = null;

  constructor() {
    super();
    // A page that nobody sees costs the dispatcher nothing.
    document.addEventListener("visibilitychange", () => {
      if (!this.#opened) return;
      if (document.hidden) this.#disconnect("");
      else this.#connect();
    });
  }

  open() {
    this.#opened = true;
    this.#before = false;
    this.#connect();
  }

  close() {
    this.#opened = false;
    this.#disconnect("");
    this.summary = null;
  }

  // Follow one task closely, too; null: none.
  watch(task) {
    if (task === this.#task) return;
    this.#task = task;
    if (this.#opened && !document.hidden) this.#connect();
  }

  #connect() {
    this.#disconnect("connecting");
    const source = new EventSource(this.#task === null ? "/v1/events" : `/v1/events?task=${this.#task}`);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#tell("link", "live");
      if (this.#before) this.#askToReload();
      this.#before = true;
    });
    source.addEventListener("error", () => {
      this.#before = true;
      this.#tell("link", "lost");
      // A browser comes back by itself, but not after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED && source === this.#source) {
        this.#source = null;
        this.#tell("refused", null);
        setTimeout(() => this.#opened && this.#source === null && !document.hidden && this.#connect(), 5000);
      }
    });
    for (const kind of ["tasks", "nodes", "task"]) {
      source.addEventListener(kind, (event) => this.#tell(kind, JSON.parse(event.data)));
    }
    source.addEventListener("summary", (event) => {
      this.summary = JSON.parse(event.data);
      this.#tell("summary", this.summary);
    });
    source.addEventListener("stale", () => this.#askToReload());
  }

  #disconnect(state) {
    this.#source?.close();
    this.#source = null;
    if (state !== null) this.#tell("link", state);
  }

  // However often it is said that more has changed, lists are loaded anew every two seconds at most.
  #askToReload() {
    if (this.#reload !== null) return;
    const wait = Math.max(0, this.#reloaded + RELOAD_MS - Date.now());
    this.#reload = setTimeout(() => {
      this.#reload = null;
      this.#reloaded = Date.now();
      this.#tell("reload", null);
    }, wait);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}

export const live = new Live();

// Listen for as long as a view is shown.
export function listen(signal, handlers) {
  for (const [kind, handler] of Object.entries(handlers)) {
    live.addEventListener(kind, (event) => quietly(handler(event.detail)), { signal });
  }
}

// What is begun by an event has nobody who waits for it: a view that is left takes it back, and that is no error.
export async function quietly(work) {
  try {
    await work;
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, "bad");
  }
}
