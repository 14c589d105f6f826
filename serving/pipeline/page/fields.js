"use strict";
// The form: how each kind of input is asked for, and rows of them.

/**
 * The kinds of inputs. `empty` is the value of a field that nothing was put into; `from` makes a value of JSON, and `to`
 * makes JSON of a value, undefined where the input is left out; `show` makes the field. A value is kept in row[input.name].
 */
const KINDS = {
  number: {
    isCell: true,
    empty: () => "",
    from: (json) => toJson(json).replace(/^"|"$/g, ""),
    to: (text) => (text.trim() ? typedNumber(text.trim()) : undefined),
    show: (field) => textInput(field, { inputmode: "text" }),
  },
  numbers: {
    isCell: true,
    empty: () => "",
    from: (json) => [json].flat().map(toJson).join(", "),
    to: (text) => (text.trim() ? text.trim().replace(/^\[|\]$/g, "").split(/[\s,;]+/).filter(Boolean).map(typedNumber) : undefined),
    show: (field) => textInput(field, { class: "numbers", placeholder: "numbers, with commas between" }),
  },
  choice: {
    isCell: true,
    empty: () => "",
    from: (json) => String(json),
    to: (text) => (text ? text === "true" : undefined),
    show: (field) => {
      const options = ["", "true", "false"].map((text) => element("option", { value: text, selected: text === field.value }, text));
      return element("select", { id: field.id, change: ({ target }) => field.change(target.value) }, ...options);
    },
  },
  text: {
    isCell: true,
    empty: () => "",
    from: (json) => (typeof json === "string" ? json : toJson(json)),
    to: (text, input) => (/^\{"b64": ?"[^"]*"\}$/.test(text) ? JSON.parse(text) : text || !input.isOptional ? text : undefined),
    show: (field) => {
      const area = element("textarea", { id: field.id, rows: 1, input: ({ target }) => field.change(target.value) });
      area.value = field.value;
      area.rows = Math.min(8, field.value.split("\n").length + Math.floor(field.value.length / 60));
      return area;
    },
  },
  picture: {
    empty: () => null,
    from: (json) => (json?.b64 ? pictureFrom(json.b64) : null),
    to: (picture) => (picture ? { b64: picture.b64 } : undefined),
    show: (field) => {
      const preview = element("div", { hidden: !field.value });
      if (field.value) preview.append(thumbnail(field.value.url, "the picture to send"));
      return dropPlace({ id: field.id, label: field.label, isMany: field.hasRows, take: field.takeFiles }, preview,
        field.value?.name ? element("p", { class: "quiet" }, field.value.name) : null);
    },
  },
  drawing: { empty: emptyDrawing, from: drawingFrom, to: drawnNumbers, show: drawingField },
  json: {
    empty: () => "",
    from: toJson,
    to: (text) => (text.trim() ? parseJson(text) : undefined),
    show: (field) => {
      const area = element("textarea", { class: "json", id: field.id, rows: 4, spellcheck: "false", placeholder: "JSON: lists in lists",
        input: ({ target }) => field.change(target.value) });
      area.value = field.value;
      return area;
    },
  },
};

const MOST_LINES = 5; // fields of one line each; more than that stand beside each other
const CONTROLS = "input, textarea, select";

function textInput(field, attributes) {
  const input = element("input", { type: "text", id: field.id, autocomplete: "off", ...attributes,
    input: ({ target }) => field.change(target.value), paste: (event) => field.pasteTable?.(event) });
  input.value = field.value;
  return input;
}

function drawingField(field) {
  const drawing = field.value;
  const [height, width, channels] = drawing.size;
  const isDrawn = channels === 1 && Math.max(height, width) <= MOST_CELLS;
  const canvas = element("canvas", {
    class: "grid", id: field.id, width, height, tabindex: isDrawn ? 0 : undefined, role: isDrawn ? "application" : "img",
    "aria-label": isDrawn ? `${field.label}: draw here; arrow keys move, Space inks a cell, Delete clears it` : field.label,
  });
  const repaint = () => {
    paint(canvas, drawing);
    field.change(drawing);
  };
  paint(canvas, drawing);
  if (isDrawn) drawOn(canvas, drawing, field.label, repaint);
  const darkIsHigh = element("input", { type: "checkbox", checked: channels === 1 });
  const range = element("select", { "aria-label": "values", change: () => {
    [drawing.low, drawing.high] = RANGES[range.value];
    repaint();
  } }, ...RANGES.map(([low, high], index) =>
    element("option", { value: index, selected: low === drawing.low && high === drawing.high }, `${low} to ${high}`)));
  const take = async ([file]) => {
    try {
      await load(file, drawing, darkIsHigh.checked);
      repaint();
    } catch {
      field.fail("The browser cannot read this file as a picture.");
    }
  };
  const clear = () => {
    drawing.cells.fill(0);
    repaint();
  };
  return dropPlace({ id: `${field.id}-file`, label: `${field.label}, a picture`, take, isMany: false }, canvas,
    element("div", { class: "inline" }, element("button", { type: "button", click: clear }, "Clear"), range),
    element("label", { class: "quiet" }, darkIsHigh, " dark pixels are high"));
}

/** The form of one signature. `changed` is called after each change of a value. */
class Form {
  constructor(signature, place, changed) {
    this.signature = signature;
    this.place = place;
    this.changed = changed;
    this.isTable = signature.hasRows && signature.inputs.every(({ kind }) => KINDS[kind].isCell);
    if (signature.example) this.fill(signature.example);
    else this.rows = [this.emptyRow()];
  }

  emptyRow() {
    return Object.fromEntries(this.signature.inputs.map((input) => [input.name, KINDS[input.kind].empty(input)]));
  }

  /** Put the values of a request into the form. */
  fill(body) {
    const rows = rowsOf(body, this.signature).map((row) => Object.fromEntries(this.signature.inputs.map((input) =>
      [input.name, row?.[input.name] === undefined ? KINDS[input.kind].empty(input) : KINDS[input.kind].from(row[input.name], input)])));
    this.rows = rows.length ? rows : [this.emptyRow()];
  }

  /** Return the request, as toJson takes it; raise an error that has the place where a field is not JSON. */
  request() {
    const rows = this.rows.map((row, index) => Object.fromEntries(this.signature.inputs.map((input) => {
      try {
        return [input.name, KINDS[input.kind].to(row[input.name], input)];
      } catch (error) {
        throw Object.assign(new Error(`not JSON: ${error.message}`), { place: [index, input.name] });
      }
    })));
    return requestOf(rows, this.signature);
  }

  show() {
    const { inputs } = this.signature;
    this.controls = new Map();
    if (!inputs.length) this.place.replaceChildren(element("p", { class: "quiet" }, "This signature takes no input."));
    else if (this.isTable && this.rows.length > 1) this.place.replaceChildren(element("div", { class: "wide" }, this.table()));
    else this.place.replaceChildren(...this.rows.map((row, index) => this.group(row, index)));
  }

  group(row, index) {
    const fields = this.signature.inputs.map((input) => {
      const control = this.control(row, index, input);
      const id = control.matches(CONTROLS) ? control.id : undefined;
      const type = element("span", { class: "type", id: `${this.idOf(index, input.name)}-type` }, input.text + (input.isOptional ? ", optional" : ""));
      const label = element("div", { class: "label" }, element(id ? "label" : "span", { for: id }, input.name), type);
      if (id) control.setAttribute("aria-describedby", type.id);
      return element("div", { class: "field" }, label, control, this.errorOf(index, input));
    });
    const isMany = this.isTable && fields.length > MOST_LINES;
    if (this.rows.length === 1) return element("div", { class: isMany ? "many" : undefined }, ...fields);
    return element("fieldset", {}, element("legend", {}, `Row ${index + 1}`), this.remover(index), ...fields);
  }

  table() {
    const heads = this.signature.inputs.map(({ name, text }) => element("th", { scope: "col", title: text }, name));
    const rows = this.rows.map((row, index) => element(
      "tr", {}, element("th", { scope: "row", class: "least" }, String(index + 1)),
      ...this.signature.inputs.map((input) => element("td", {}, this.control(row, index, input), this.errorOf(index, input))),
      element("td", { class: "least" }, this.remover(index)),
    ));
    const head = element("tr", {}, element("th", { scope: "col", class: "least" }, "row"), ...heads, element("td", { class: "least" }));
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  }

  remover(index) {
    const remove = () => {
      this.rows.splice(index, 1);
      this.show();
      this.changed();
    };
    return element("button", { type: "button", class: "remove", "aria-label": `Remove row ${index + 1}`, click: remove }, "✕");
  }

  errorOf(index, { name }) {
    return element("p", { class: "error", id: `${this.idOf(index, name)}-error`, hidden: true });
  }

  idOf(index, name) {
    return `field-${index}-${this.signature.inputs.findIndex((input) => input.name === name)}`;
  }

  control(row, index, input) {
    const id = this.idOf(index, input.name);
    const control = KINDS[input.kind].show({
      id,
      label: this.rows.length > 1 ? `${input.name}, row ${index + 1}` : input.name,
      value: row[input.name],
      hasRows: this.signature.hasRows,
      change: (value) => {
        row[input.name] = value;
        this.mark(index, input.name, "");
        this.changed();
      },
      takeFiles: (files) => this.takeFiles(files, index, input.name),
      fail: (text) => this.mark(index, input.name, text),
      pasteTable: this.isTable ? (event) => this.pasteTable(event, index, input.name) : undefined,
    });
    this.controls.set(id, control);
    if (this.rows.length > 1 && control.matches(CONTROLS)) control.setAttribute("aria-label", `${input.name}, row ${index + 1}`);
    return control;
  }

  /** Put files into a row, and each further one into a row of its own. */
  async takeFiles(files, index, name) {
    const pictures = await Promise.all((this.signature.hasRows ? files : files.slice(0, 1)).map(pictureOf));
    this.rows[index][name] = pictures[0];
    this.rows.splice(index + 1, 0, ...pictures.slice(1).map((picture) => ({ ...this.emptyRow(), [name]: picture })));
    this.show();
    this.changed();
    byId(this.idOf(index, name)).focus();
  }

  /** Put cells of a spreadsheet, which are pasted with tabs and line ends between, into the cells from here on. */
  pasteTable(event, index, name) {
    const lines = event.clipboardData.getData("text").replace(/\r?\n$/, "").split(/\r?\n/).map((line) => line.split("\t"));
    if (lines.length === 1 && lines[0].length === 1) return;
    event.preventDefault();
    const { inputs } = this.signature;
    const first = inputs.findIndex((input) => input.name === name);
    lines.forEach((cells, down) => {
      if (!this.rows[index + down]) this.rows.push(this.emptyRow());
      cells.slice(0, inputs.length - first).forEach((cell, across) => (this.rows[index + down][inputs[first + across].name] = cell));
    });
    this.show();
    this.changed();
  }

  /** Show an error at a field, or none where the text is empty; return whether there is such a field. */
  mark(index, name, text) {
    const id = this.idOf(index, name);
    const [control, error] = [this.controls.get(id), byId(`${id}-error`)];
    if (!control || !error) return false;
    const target = control.matches(CONTROLS) ? control : byId(id);
    showText(error, text);
    target.setAttribute("aria-invalid", Boolean(text));
    target.setAttribute("aria-describedby", text ? `${error.id} ${id}-type` : `${id}-type`);
    return true;
  }

  unmark() {
    this.rows.forEach((_, index) => this.signature.inputs.forEach(({ name }) => this.mark(index, name, "")));
  }
}
