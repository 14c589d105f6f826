"use strict";
// What is served, as this page needs it: from the index, the metadata and the OpenAPI document.

const BASE = new URL(".", location.href);
const TYPES = {
  DT_HALF: "float16", DT_BFLOAT16: "bfloat16", DT_FLOAT: "float32", DT_DOUBLE: "float64", DT_INT8: "int8", DT_INT16: "int16",
  DT_INT32: "int32", DT_INT64: "int64", DT_UINT8: "uint8", DT_UINT16: "uint16", DT_UINT32: "uint32", DT_UINT64: "uint64",
  DT_BOOL: "bool", DT_STRING: "string",
};
const MOST_CELLS = 32; // of a side of a picture to draw
const FEWEST_CELLS = 4;

/** A refusal of the server's: its status, and its text. */
class Refusal extends Error {
  constructor(status, text, timing) {
    super(text);
    this.status = status;
    this.timing = timing;
  }
}

const access = {}; // header fields that a check of the operator's asks for, such as X-API-Key

/** Ask the server for JSON. */
async function getJson(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers: { Accept: "application/json", ...access, ...options.headers } });
  } catch {
    throw new Refusal(0, "The server cannot be reached.");
  }
  const text = await response.text();
  const timing = response.headers.get("Server-Timing") || "";
  let json;
  try {
    json = parseJson(text);
  } catch {
    throw new Refusal(response.status, `The answer with status ${response.status} is not JSON.`, timing);
  }
  if (!response.ok) throw new Refusal(response.status, json.error || text, timing);
  return { json, text, timing };
}

/** Return the model: its name, version, card, and the signatures that take JSON. */
async function describe() {
  const { json: index } = await getJson("");
  const path = `v1/models/${encodeURIComponent(index.model)}`;
  const [metadata, openapi] = await Promise.all([getJson(`${path}/metadata`), getJson("openapi.json")]);
  const { schemas, requestBodies } = openapi.json.components;
  const examples = requestBodies.Predict?.content["application/json"]?.examples || {};
  const definitions = metadata.json.metadata.signature_def.signature_def;
  const signatures = [];
  for (const [id, schema] of Object.entries(schemas)) {
    const chosen = id.endsWith(".inputs") && schema.properties?.signature_name;
    const name = chosen && (chosen.const ?? chosen.enum[0]);
    if (chosen && definitions[name]) {
      const example = Object.values(examples).find(({ summary }) => summary === name)?.value;
      const made = signature(name, definitions[name], schema, schemas[`${id.slice(0, -7)}.instances`], example);
      signatures.push({ ...made, classNames: openapi.json.info["x-class-names"] });
    }
  }
  signatures.sort((one, other) => (other.name === "serving_default") - (one.name === "serving_default"));
  const { version } = metadata.json.model_spec;
  return { name: index.model, path, version, card: metadata.json.metadata.card, signatures };
}

/** Return one signature. `rows` is the schema of a request in rows, undefined where there are none; `columns` of the others. */
function signature(name, definition, columns, rows, example) {
  const schemas = properties(rows ? rows.properties.instances.items : columns.properties.inputs);
  const tensors = (side) => Object.entries(side).map(([key, info]) => tensor(key, info, Boolean(rows)));
  const inputs = tensors(definition.inputs).map((input) => {
    const kind = kindOf(input, schemas?.[input.name]?.contentMediaType);
    const text = kind === "picture" ? "a picture's file" : input.text;
    return { ...input, kind, text, isOptional: input.name in (definition.defaults || {}) };
  });
  return { name, inputs, outputs: tensors(definition.outputs), hasRows: Boolean(rows), example };
}

/** Return the properties of the object that a schema allows. */
function properties(schema) {
  if (schema.properties && !schema.properties.b64) return schema.properties;
  return (schema.anyOf || []).map(properties).find(Boolean) || null;
}

/** Return a tensor: its name, its type, and its shape in a row of a request, where null is a free size. */
function tensor(name, info, inRows) {
  const whole = info.tensor_shape.unknown_rank ? null : info.tensor_shape.dim.map(({ size }) => (size === "-1" ? null : Number(size)));
  const shape = whole && inRows ? whole.slice(1) : whole;
  const type = TYPES[info.dtype] || info.dtype;
  const sizes = shape === null ? " of any shape" : shape.length ? ` [${shape.map((size) => size ?? "any").join(", ")}]` : "";
  return { name, type, shape, text: type + sizes };
}

/** Return how an input is asked for: see KINDS in fields.js. */
function kindOf({ type, shape }, media) {
  const isText = type === "string";
  if (shape?.length === 0) return isText ? (media?.startsWith("image/") ? "picture" : "text") : type === "bool" ? "choice" : "number";
  if (shape?.length === 1 && !isText && type !== "bool") return "numbers";
  if (shape && isPicture(shape) && !isText && type !== "bool") return "drawing";
  return "json";
}

/** Say whether a shape is that of a picture: height and width, and one or three channels. */
function isPicture([height, width, channels = 1, ...others]) {
  return !others.length && height >= FEWEST_CELLS && width >= FEWEST_CELLS && height * width <= 1 << 20 && (channels === 1 || channels === 3);
}

/** Return the rows of a request as inputs by name, as toJson takes them. */
function rowsOf(body, { inputs, hasRows }) {
  const items = hasRows ? body.instances : [body.inputs];
  const isNamed = (item) => item && typeof item === "object" && !Array.isArray(item) && inputs.some(({ name }) => name in item);
  return (items || []).map((item) => (inputs.length !== 1 || isNamed(item) ? item : { [inputs[0].name]: item }));
}

/** Return the request for rows of inputs by name; an input that is undefined is left out. */
function requestOf(rows, { name, inputs, hasRows }) {
  const isSole = inputs.length === 1;
  const items = rows.map((row) => {
    const given = Object.fromEntries(Object.entries(row).filter(([, value]) => value !== undefined));
    return isSole && inputs[0].name in given ? given[inputs[0].name] : given;
  });
  const named = name === "serving_default" ? {} : { signature_name: name };
  return hasRows ? { ...named, instances: items } : { ...named, inputs: items[0] };
}
