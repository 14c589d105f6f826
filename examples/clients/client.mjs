// A client in JavaScript with fetch, for Node.js 18, Deno and browsers:
//   node client.mjs http://localhost:8080 ../three.json
import { readFile } from "node:fs/promises";

const TRIES = 5;

export async function predict(url, body) {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(`${url}/v1/models/model:predict`, { method: "POST", body });
    if ([429, 503].includes(response.status) && attempt < TRIES) {
      // The server is busy, or loads the model.
      const seconds = Number(response.headers.get("retry-after") ?? 1);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(`${response.status}: ${answer.error}`);
    return answer;
  }
}

const [url, file] = process.argv.slice(2);
const { predictions } = await predict(url, await readFile(file, "utf8"));
for (const prediction of predictions) console.log(prediction.label);
