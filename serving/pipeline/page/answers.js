"use strict";
// An answer as people read it: ranked classes as bars, values by name, the picture that it is of.

const SHOWN_CLASSES = 5;
const MOST_CLASSES = 1000; // of an output that is shown as scores where its classes have no names
const LONGEST_LIST = 2000; // characters of numbers that are shown

/** Return the outputs of each row by name; of a signature without rows, one that has all. */
function outputsOf(json, { outputs, hasRows }) {
  const rows = hasRows ? json.predictions : [json.outputs];
  return rows.map((row) => (outputs.length === 1 ? { [outputs[0].name]: row } : row));
}

/** Say whether an output holds scores of classes: several numbers, each from 0 to 1, or ones that have names. */
function isScores(value, output, names) {
  if (!Array.isArray(value) || value.length < 2 || !/float/.test(output.type) || output.shape?.length > 1) return false;
  if (!value.every((item) => typeof item === "number")) return false;
  return Boolean(names) || (value.length <= MOST_CLASSES && value.every((item) => item >= 0 && item <= 1));
}

/** Return the names of the classes of scores: of an output with a text for each, or those of the model; or undefined. */
function namesOf(scores, outputs, { classNames }) {
  const isName = (item) => typeof item === "string";
  const isFitting = (list) => Array.isArray(list) && list.length === scores?.length;
  return [...Object.values(outputs).filter((list) => isFitting(list) && list.every(isName)), classNames].find(isFitting);
}

/** Return scores as pairs of a name and a score, best first. */
function ranked(scores, names) {
  const classes = scores.map((score, index) => [names?.[index] ?? `class ${index}`, score]);
  return classes.sort(([, one], [, other]) => other - one);
}

/** Return a score as text, in per cent where all scores are from 0 to 1. */
function scoreText(score, isShare) {
  if (!isShare) return readable(score);
  const percent = 100 * score;
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return percent > 99.9 && percent < 100 ? "> 99.9 %" : `${percent.toFixed(1)} %`;
}

function classList(classes, isShare) {
  const scores = classes.map(([, score]) => score);
  const [least, most] = isShare ? [0, 1] : [Math.min(0, ...scores), Math.max(...scores)];
  return element("ol", { class: "classes" }, ...classes.map(([name, score]) => {
    const bar = element("div");
    bar.style.width = `${(100 * (score - least)) / (most - least || 1)}%`;
    return element(
      "li", {},
      element("span", { class: "class", title: name }, String(name)),
      element("div", { class: "meter", "aria-hidden": "true" }, bar),
      element("span", { class: "score" }, scoreText(score, isShare)),
    );
  }));
}

function scoresShown(scores, names) {
  const isShare = scores.every((score) => score >= 0 && score <= 1);
  const classes = ranked(scores, names);
  const shown = classList(classes.slice(0, SHOWN_CLASSES), isShare);
  if (classes.length <= SHOWN_CLASSES) return [shown];
  return [shown, element("details", {}, element("summary", {}, `All ${classes.length} classes`), classList(classes, isShare))];
}

/** Return a value in words: text as it is, numbers shortened, lists as JSON. */
function valueText(value) {
  if (value === null || typeof value !== "object" || value instanceof Literal) {
    return typeof value === "string" ? value : typeof value === "boolean" ? String(value) : readable(value);
  }
  const text = toJson(value);
  return text.length > LONGEST_LIST ? `${text.slice(0, LONGEST_LIST)} …` : text;
}

const isList = (value) => Array.isArray(value) || (value !== null && typeof value === "object" && !(value instanceof Literal));

/** Return the picture of a row, if its signature has one. */
function pictureOfRow(row, { inputs }, index) {
  for (const { name, kind } of inputs) {
    const alt = `${name}, row ${index + 1}`;
    if (kind === "picture" && row[name]) return thumbnail(row[name].url, alt);
    if (kind === "drawing") return drawnThumbnail(row[name], alt);
  }
  return null;
}

/** Return the answer to one row: its picture, and beside it what the model says. */
function resultShown(values, signature, picture) {
  const plain = element("dl", { class: "values" });
  const others = [];
  for (const output of signature.outputs) {
    const value = values[output.name];
    if (value === undefined) continue;
    const names = namesOf(value, values, signature);
    if (isScores(value, output, names)) {
      others.push(element("div", {}, element("p", { class: "quiet" }, output.name), ...scoresShown(value, names)));
    } else if (isList(value)) {
      others.push(element("div", {}, element("p", { class: "quiet" }, output.name),
        element("div", { class: "list", tabindex: 0, role: "group", "aria-label": output.name }, valueText(value))));
    } else {
      plain.append(element("dt", {}, output.name), element("dd", { class: plain.children.length ? undefined : "headline" }, valueText(value)));
    }
  }
  return element("div", { class: "result" }, picture, element("div", {}, plain.children.length ? plain : null, ...others));
}

/** Return the answers to several rows as a table. */
function tableShown(answers, rows, signature) {
  const pictures = rows.map((row, index) => pictureOfRow(row, signature, index));
  const hasPictures = pictures.some(Boolean);
  const cell = (values, output) => {
    const value = values[output.name];
    const names = namesOf(value, values, signature);
    if (!isScores(value, output, names)) return element("td", {}, valueText(value));
    return element("td", {}, classList(ranked(value, names).slice(0, 1), value.every((score) => score >= 0 && score <= 1)));
  };
  const heads = signature.outputs.map(({ name, text }) => element("th", { scope: "col", title: text }, name));
  const body = answers.map((values, index) => element(
    "tr", {}, element("th", { scope: "row", class: "least" }, String(index + 1)), hasPictures ? element("td", { class: "least" }, pictures[index]) : null,
    ...signature.outputs.map((output) => cell(values, output)),
  ));
  const head = element("tr", {}, element("th", { scope: "col", class: "least" }, "row"), hasPictures ? element("td", { class: "least" }) : null, ...heads);
  return element("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "the answers" },
    element("table", { class: "answers" }, element("thead", {}, head), element("tbody", {}, ...body)));
}

/** Return what Server-Timing says, in words; `milliseconds` passed in the browser. */
function timesText(timing, milliseconds) {
  const times = Object.fromEntries([...timing.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, value]) => [name, Number(value)]));
  const text = (value) => `${value >= 100 ? Math.round(value) : Number(value.toPrecision(2))} ms`;
  const parts = [`${text(milliseconds)} in all`];
  if (times.total !== undefined) parts.push(`${text(times.total)} in the server`);
  if (times.run !== undefined) parts.push(`${text(times.run)} in the model`);
  if (/(^|, )cold\b/.test(timing)) parts.push(`cold: the model was loaded first (${text(times.wait)})`);
  return parts.join(" · ");
}
