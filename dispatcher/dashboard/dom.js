// Elements are made one by one and text stays text: what a function or a node wrote can never become markup.

const SVG = new Set(["svg", "path"]);

export function h(name, props = {}, ...children) {
  const element = SVG.has(name)
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (key === "class") {
      element.setAttribute("class", value);
    } else if (key in element && typeof value !== "string") {
      element[key] = value;
    } else {
      element.setAttribute(key, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

// Changes nothing where nothing is different, so that a row which is told the same again costs no layout.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// What there is not takes no place on a phone.
export function setFact(element, text) {
  setText(element, text ?? "–");
  element.closest("td")?.classList.toggle("off", text === null);
}

export function setClass(element, value) {
  if (element.className !== value) element.className = value;
}

// A heading that those who see do not need.
export const unseen = (text) => h("span", { class: "seen-by-readers" }, text);

// What is heard by screen readers and seen for a moment.
export function say(text, tone = "") {
  const toast = h("div", { class: `toast ${tone}` }, text);
  document.getElementById("said").append(toast);
  setTimeout(() => toast.remove(), tone === "bad" ? 9000 : 4500);
}

export function copyable(text, name) {
  const button = h("button", { type: "button", "aria-label": `Copy ${name}` }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      setText(button, "Copied");
    } catch {
      // Without TLS a browser gives no clipboard: the text is selected, so that the keyboard does it.
      getSelection().selectAllChildren(button.previousElementSibling);
      setText(button, "Selected");
    }
    setTimeout(() => setText(button, "Copy"), 1500);
  });
  return h("div", { class: "secret" }, h("code", {}, text), button);
}
