"use strict";
// JSON in which numbers stay as they were written (int64 beyond 2^53, NaN and the infinities), and elements of the page.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?Infinity|NaN|-?\d[\d.eE+-]*/g;
const NUMBER = /^-?(?:(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|Infinity)$|^NaN$/;
const MARK = "\0"; // begins a string that stands for a number which JavaScript would change

/** A number that is written into JSON as it stands here. */
class Literal {
  constructor(text) {
    this.text = text;
  }
  toString() {
    return this.text;
  }
}

/** Read JSON; numbers that JavaScript would change, and NaN and the infinities, become Literals. */
function parseJson(text) {
  const marked = text.replace(TOKEN, (token) => {
    const isKept = token[0] === '"' || (!/[IN]/.test(token) && (token.length < 16 || String(Number(token)) === token));
    return isKept ? token : JSON.stringify(MARK + token);
  });
  return JSON.parse(marked, (_, value) => (typeof value === "string" && value[0] === MARK ? new Literal(value.slice(1)) : value));
}

/** Write JSON on one line. */
function toJson(value) {
  if (value instanceof Literal) return value.text;
  if (Array.isArray(value)) return `[${value.map(toJson).join(", ")}]`;
  if (value && typeof value === "object") {
    return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${toJson(item)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** Return what a person typed as a number if it is one, else as a text, which the server then refuses by its place. */
function typedNumber(text) {
  return NUMBER.test(text) ? new Literal(text) : text;
}

/** Return a number as people read it: 0.99961, 3.4e-12, 42. */
function readable(value) {
  const number = Number(value);
  if (value instanceof Literal || Number.isInteger(number) || !Number.isFinite(number)) return String(value);
  const short = Number(number.toPrecision(5));
  return String(Number.isInteger(short) ? number : short);
}

/** Make an element: attributes by name, functions as listeners of events, then children. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

/** Show a text in an element, or hide the element where there is none. */
function showText(target, text) {
  target.textContent = text;
  target.hidden = !text;
}
