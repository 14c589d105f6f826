"use strict";
// The same request for other programs. A request is { url, headers }, and { body } of JSON or { file } for a file.

const shellText = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const scriptText = (text) => JSON.stringify(text).replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");
const goText = (text) => (/[`\r]/.test(text) ? JSON.stringify(text) : `\`${text}\``);

/** Return JSON as a literal of Python. */
function pythonText(json) {
  const words = { true: "True", false: "False", null: "None", NaN: 'float("nan")', Infinity: 'float("inf")', "-Infinity": 'float("-inf")' };
  return json.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN|true|false|null/g, (token) => words[token] ?? token);
}

/** Say whether JavaScript would change the JSON: NaN and the infinities, and integers beyond 2^53. */
function isChanged(json) {
  const holds = (value) => value instanceof Literal || (value && typeof value === "object" && Object.values(value).some(holds));
  return holds(parseJson(json));
}

const SNIPPETS = {
  curl({ url, headers, body, file }) {
    const fields = Object.entries(headers).map(([name, value]) => `  -H ${shellText(`${name}: ${value}`)} \\\n`).join("");
    const data = file ? `--data-binary ${shellText(`@${file}`)}` : `-d ${shellText(body)}`;
    return `curl ${shellText(url)} \\\n${fields}  ${data}\n`;
  },

  Python({ url, headers, body, file }) {
    const { "Content-Type": type, ...others } = headers;
    const fields = file ? headers : others; // requests names the type of JSON itself
    const lines = [scriptText(url), file ? "data=file" : `json=${pythonText(body)}`];
    if (Object.keys(fields).length) lines.push(`headers=${toJson(fields)}`);
    const call = (indent) => `answer = requests.post(\n${lines.map((line) => `${indent}    ${line},\n`).join("")}${indent})\n`;
    const sending = file ? `with open(${scriptText(file)}, "rb") as file:\n    ${call("    ")}` : call("");
    return `import requests\n\n${sending}print(answer.json())\n`;
  },

  JavaScript({ url, headers, body, file }) {
    const text = file ? `await readFile(${scriptText(file)})` : isChanged(body) ? scriptText(body) : `JSON.stringify(${body})`;
    const reading = file ? 'import { readFile } from "node:fs/promises";\n\n' : "";
    return `${reading}const answer = await fetch(${scriptText(url)}, {\n  method: "POST",\n  headers: ${toJson(headers)},\n  body: ${text},\n});\n` +
      "console.log(await answer.text());\n";
  },

  Go({ url, headers, body, file }) {
    const failing = "\tif err != nil {\n\t\tlog.Fatal(err)\n\t}\n";
    const names = ['"fmt"', '"io"', '"log"', '"net/http"', file ? '"os"' : '"strings"'];
    const opening = file ? `\tbody, err := os.Open(${scriptText(file)})\n${failing}` : `\tbody := strings.NewReader(${goText(body)})\n`;
    const fields = Object.entries(headers).map(([name, value]) => `\trequest.Header.Set(${scriptText(name)}, ${scriptText(value)})\n`);
    return `package main\n\nimport (\n${names.map((name) => `\t${name}\n`).join("")})\n\nfunc main() {\n${opening}` +
      `\trequest, err := http.NewRequest("POST", ${scriptText(url)}, body)\n${failing}${fields.join("")}` +
      `\tanswer, err := http.DefaultClient.Do(request)\n${failing}` +
      `\tdefer answer.Body.Close()\n\ttext, err := io.ReadAll(answer.Body)\n${failing}\tfmt.Println(string(text))\n}\n`;
  },
};

/** Return the request of a form for SNIPPETS: the file itself where one picture from a file is all of it. */
function requestShown(form, body, path) {
  const { signature, rows } = form;
  const url = new URL(`${path}:predict`, BASE).href;
  const picture = signature.inputs.length === 1 && signature.inputs[0].kind === "picture" && rows.length === 1 && rows[0][signature.inputs[0].name];
  if (!picture?.name) return { url, headers: { "Content-Type": "application/json", ...access }, body };
  const query = signature.name === "serving_default" ? "" : `?signature_name=${encodeURIComponent(signature.name)}`;
  return { url: url + query, headers: { "Content-Type": picture.type, ...access }, file: picture.name };
}
