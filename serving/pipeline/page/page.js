"use strict";
// The page: it shows the model and its form, sends the request, and shows the answer or the error at its field.

const PAUSE = 2000; // milliseconds
const MOST_ATTEMPTS = 30;

let model;
let form;
let language = "curl";
let isAsking = false;

function start() {
  setUpTabs();
  setUpAccess();
  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", () => copy(button)));
  showModel();
}

/** Show the model and its form; ask for a key first where the server refuses without one. */
async function showModel() {
  showText(byId("problem"), "");
  try {
    model = await patiently(describe);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    byId("access").hidden = ![401, 403].includes(error.status);
    showText(byId("problem"), error.message);
    return showState("failed", "not ready");
  }
  byId("access").hidden = true;
  byId("try").hidden = byId("same").hidden = false;
  document.title = `${model.name}: try the model`;
  byId("name").textContent = model.name;
  byId("about").textContent = `TensorFlow SavedModel, version ${model.version}`;
  const { card } = model;
  if (card) byId("card").textContent = `exported ${card.time.slice(0, 10)} with TensorFlow ${card.tensorflow}, digest ${card.digest.slice(0, 8)}`;
  setUpForm();
  try {
    await patiently(() => getJson(model.path)); // which loads the model: the first prediction need not wait for that
    showText(byId("problem"), "");
    showState("ready", "ready");
  } catch (error) {
    showState("failed", "not ready");
    showText(byId("problem"), error.message);
  }
}

/** Ask again after a pause while the model cannot be had: it is being loaded, or its load is tried again. */
async function patiently(ask) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 503 || attempt === MOST_ATTEMPTS) throw error;
      showState("failed", "not ready yet");
      showText(byId("problem"), error.message);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}

function setUpAccess() {
  byId("access").addEventListener("submit", (event) => {
    event.preventDefault();
    Object.keys(access).forEach((name) => delete access[name]);
    access[byId("access-name").value] = byId("access-key").value;
    showModel();
  });
}

function showState(name, text) {
  byId("state").className = `state ${name}`;
  byId("state").textContent = text;
}

function setUpForm() {
  const { signatures } = model;
  if (!signatures.length) {
    byId("predict").disabled = true;
    return showText(byId("problem"), "No signature of this model takes JSON.");
  }
  const select = byId("signature");
  select.replaceChildren(...signatures.map(({ name }, index) => element("option", { value: index }, name)));
  byId("choice").hidden = signatures.length === 1;
  select.addEventListener("change", () => choose(signatures[select.value]));
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    predict();
  });
  byId("form").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && predict());
  byId("add").addEventListener("click", () => {
    form.rows.push(form.emptyRow());
    show();
    byId(form.idOf(form.rows.length - 1, form.signature.inputs[0].name))?.focus();
  });
  byId("example").addEventListener("click", () => {
    form.fill(form.signature.example);
    show();
  });
  choose(signatures[0]);
}

function choose(signature) {
  form = new Form(signature, byId("rows"), showCode);
  byId("add").hidden = !signature.hasRows || !signature.inputs.length;
  byId("example").hidden = !signature.example;
  clearAnswer(element("p", { class: "quiet" }, "Fill in the input, then Predict."));
  show();
}

/** Take away the answer and its error; show something else in their place. */
function clearAnswer(...others) {
  showText(byId("refusal"), "");
  byId("answer").replaceChildren(...others);
  byId("raw").hidden = true;
  byId("times").textContent = "";
}

function show() {
  form.show();
  showCode();
}

/** Send the request, and show what comes back. */
async function predict() {
  if (isAsking) return;
  const { signature } = form;
  const rows = [...form.rows];
  form.unmark();
  showText(byId("refusal"), "");
  let body;
  try {
    body = toJson(form.request());
  } catch (error) {
    return showRefusal(error, error.place);
  }
  isAsking = byId("predict").disabled = true;
  byId("times").textContent = "…";
  const began = performance.now();
  try {
    const { json, text, timing } = await getJson(`${model.path}:predict`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
    const times = timesText(timing, performance.now() - began);
    const answers = outputsOf(json, signature);
    byId("answer").replaceChildren(answers.length === 1 || !signature.hasRows
      ? resultShown(answers[0], signature, pictureOfRow(rows[0], signature, 0))
      : tableShown(answers, rows, signature));
    byId("times").textContent = times;
    byId("raw").hidden = false;
    byId("json").textContent = text;
    showState("ready", "ready");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    showRefusal(error, placeOf(error.message, signature), performance.now() - began);
  } finally {
    isAsking = byId("predict").disabled = false;
  }
}

/** Return the row and the input that an error speaks of, or undefined. */
function placeOf(text, { inputs }) {
  const [, place, row, rest] = text.match(/^(instances\[(\d+)\]|inputs)([^]*)/) || [];
  if (!place) return undefined;
  const after = (name) => rest.startsWith(`.${name}`) && /^[:[]/.test(rest.slice(name.length + 1));
  const missing = (name) => rest.startsWith(`: the input '${name}' is missing`);
  const input = inputs.find(({ name }) => after(name) || missing(name)) || (inputs.length === 1 ? inputs[0] : undefined);
  return input && [Number(row || 0), input.name];
}

/** Show an error at its field where there is one, and in the answer. */
function showRefusal(error, place, milliseconds) {
  const message = error.message.replace(/; (a body that works|the form of a body)[^]*$/, "");
  const reason = message.replace(/^(instances\[\d+\]|inputs)[^:]*: /, "").replace(/( is missing); expected [^]*$/, "$1");
  const row = message.match(/^instances\[(\d+)\]/)?.[1] ?? place?.[0];
  const where = [form.rows.length > 1 && row !== undefined ? `row ${Number(row) + 1}` : "", place?.[1]].filter(Boolean).join(", ");
  clearAnswer();
  showText(byId("refusal"), where ? `${where}: ${reason}` : message);
  if (place && form.mark(...place, reason)) byId(form.idOf(...place)).focus();
  byId("times").textContent = error.status ? [`status ${error.status}`, timesText(error.timing, milliseconds)].join(" · ") : "";
}

// The same request as code

function setUpTabs() {
  const names = Object.keys(SNIPPETS);
  const tabs = names.map((name) => element("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", click: () => select(name),
    keydown: ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) select(names[(names.indexOf(name) + step + names.length) % names.length]).focus();
    },
  }, name));
  const select = (name) => {
    language = name;
    tabs.forEach((tab) => {
      tab.setAttribute("aria-selected", tab.id === `tab-${name}`);
      tab.tabIndex = tab.id === `tab-${name}` ? 0 : -1;
    });
    byId("panel").setAttribute("aria-labelledby", `tab-${name}`);
    showCode();
    return byId(`tab-${name}`);
  };
  byId("tabs").replaceChildren(...tabs);
  select(language);
}

function showCode() {
  if (!form) return;
  try {
    byId("code").textContent = SNIPPETS[language](requestShown(form, toJson(form.request()), model.path));
  } catch (error) {
    byId("code").textContent = `${error.place?.[1]}: ${error.message}`;
  }
}

async function copy(button) {
  const source = byId(button.dataset.of);
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch { // the clipboard needs https, or localhost
    getSelection().selectAllChildren(source);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

start();
