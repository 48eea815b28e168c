// The way to the dispatcher: JSON, problem documents, and what proves that a request is this page's own.

import { setClock } from "./format.js";

export class Problem extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

let csrf = null;
let whenSignedOut = () => {};

export function onSignedOut(handler) {
  whenSignedOut = handler;
}

export async function call(method, path, { json, body, type, signal } = {}) {
  const headers = {};
  if (csrf !== null && method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  } else if (type !== undefined) {
    headers["Content-Type"] = type;
  }
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "UNREACHABLE", "The dispatcher cannot be reached.");
  }
  setClock(answer.headers.get("Date"));
  return answer;
}

async function checked(method, path, options) {
  const answer = await call(method, path, options);
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "/v1/session") whenSignedOut();
  throw new Problem(answer.status, problem.code ?? "UNKNOWN", problem.detail ?? `The answer was ${answer.status}.`);
}

export const get = async (path, signal) => (await checked("GET", path, { signal })).json();

// A page of a list: its entries, and the path of the next page.
export async function page(path, signal) {
  const answer = await checked("GET", path, { signal });
  const next = /<([^>]+)>; rel="next"/.exec(answer.headers.get("Link") ?? "");
  return { rows: await answer.json(), next: next === null ? null : next[1] };
}

export async function send(method, path, options) {
  const answer = await checked(method, path, options);
  return answer.status === 204 ? null : answer.json();
}

// No script can read the session's cookie. Whether there may be one is noted beside it, so that a browser which
// never logged in does not ask who it is.
const NOTE = "fernd-logged-in";

export async function logIn(token) {
  await checked("POST", "/v1/session", { json: { token } });
  localStorage.setItem(NOTE, "1");
}

export async function whoAmI() {
  if (localStorage.getItem(NOTE) === null) return null;
  try {
    const who = await get("/v1/session");
    csrf = who.csrfToken;
    return who;
  } catch (error) {
    if (error.status !== 401) throw error;
    localStorage.removeItem(NOTE);
    return null;
  }
}

export async function logOut() {
  await checked("DELETE", "/v1/session");
  localStorage.removeItem(NOTE);
  csrf = null;
}
