"use strict";
// A picture as numbers: drawn cell by cell, or brought to the size of the input. Its value is
// { cells, size: [height, width, channels], shape, low, high }, with `cells` between 0 (paper) and 1 (ink).

const RANGES = [[0, 1], [0, 16], [0, 255], [-1, 1]];

/** Return an empty drawing for an input. */
function emptyDrawing({ shape, type }) {
  const [height, width, channels = 1] = shape;
  const high = type.startsWith("float") || type === "bfloat16" ? 1 : 255;
  return { cells: new Float64Array(height * width * channels), size: [height, width, channels], shape, type, low: 0, high };
}

/** Return nested numbers as a drawing; its range is the smallest of RANGES that has them all. */
function drawingFrom(numbers, input) {
  const drawing = emptyDrawing(input);
  const flat = [numbers].flat(Infinity).map(Number);
  const [least, most] = [Math.min(...flat), Math.max(...flat)];
  const range = RANGES.find(([low, high]) => low <= least && most <= high);
  if (flat.length !== drawing.cells.length || !range) return drawing;
  [drawing.low, drawing.high] = range;
  drawing.cells.set(flat.map((number) => (number - drawing.low) / (drawing.high - drawing.low)));
  return drawing;
}

/** Return a drawing as nested numbers. */
function drawnNumbers({ cells, size: [height, width, channels], shape, type, low, high }) {
  const isWhole = !(type.startsWith("float") || type === "bfloat16");
  const number = (cell) => {
    const value = low + cell * (high - low);
    return isWhole || high > 1 ? Math.round(value) : Number(value.toFixed(3));
  };
  const pixel = (start) => (shape.length === 2 ? number(cells[start]) : Array.from({ length: channels }, (_, channel) => number(cells[start + channel])));
  return Array.from({ length: height }, (_, row) =>
    Array.from({ length: width }, (_, column) => pixel((row * width + column) * channels)));
}

/** Paint a drawing: ink is dark where there is one channel. */
function paint(canvas, { cells, size: [height, width, channels] }) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let index = 0; index < height * width; index += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[4 * index + channel] = Math.round(255 * (channels === 3 ? cells[3 * index + channel] : 1 - cells[index]));
    }
    image.data[4 * index + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Return a small picture of a drawing, to show beside its answer. */
function drawnThumbnail(drawing, alt) {
  const [height, width] = drawing.size;
  const canvas = element("canvas", { class: "picture small", width, height, role: "img", "aria-label": alt });
  paint(canvas, drawing);
  return canvas;
}

/** Bring a picture file to the size of a drawing: the largest part of it with the same proportions, from its middle. */
async function load(file, drawing, darkIsHigh) {
  const [height, width, channels] = drawing.size;
  const picture = await createImageBitmap(file);
  const scale = Math.min(picture.width / width, picture.height / height);
  const [across, down] = [width * scale, height * scale];
  const context = element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (picture.width - across) / 2, (picture.height - down) / 2, across, down, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  for (let index = 0; index < height * width; index += 1) {
    const [red, green, blue] = data.subarray(4 * index, 4 * index + 3);
    const levels = channels === 3 ? [red, green, blue] : [0.299 * red + 0.587 * green + 0.114 * blue];
    levels.forEach((level, channel) => {
      drawing.cells[index * channels + channel] = darkIsHigh ? 1 - level / 255 : level / 255;
    });
  }
}

/** Draw on a canvas with a pen that is a little wider than a cell, by pointer or by keys. */
function drawOn(canvas, drawing, label, changed) {
  const [height, width] = drawing.size;
  const radius = Math.max(0.8, height / 18);
  let cursor = [0, 0];
  let last = null;

  const dot = (x, y) => {
    for (let row = 0; row < height; row += 1) {
      for (let column = 0; column < width; column += 1) {
        const ink = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(column + 0.5 - x, row + 0.5 - y)));
        const index = row * width + column;
        drawing.cells[index] = Math.max(drawing.cells[index], ink);
      }
    }
  };
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const stroke = (event) => {
    const [x, y] = at(event);
    const [fromX, fromY] = last || [x, y];
    const steps = Math.max(1, Math.ceil(4 * Math.hypot(x - fromX, y - fromY)));
    for (let step = 1; step <= steps; step += 1) dot(fromX + ((x - fromX) * step) / steps, fromY + ((y - fromY) * step) / steps);
    last = [x, y];
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = null;
    stroke(event);
  });
  canvas.addEventListener("pointermove", (event) => last && stroke(event));
  canvas.addEventListener("pointerup", () => (last = null));
  canvas.addEventListener("pointercancel", () => (last = null));

  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const tell = () => {
    const ink = Math.round(100 * drawing.cells[cursor[0] * width + cursor[1]]);
    canvas.setAttribute("aria-label", `${label}: row ${cursor[0] + 1}, column ${cursor[1] + 1}, ${ink} % ink`);
  };
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move && event.key !== " " && event.key !== "Delete") return;
    event.preventDefault();
    if (move) cursor = [(cursor[0] + move[0] + height) % height, (cursor[1] + move[1] + width) % width];
    else drawing.cells[cursor[0] * width + cursor[1]] = event.key === " " ? 1 : 0;
    if (!move) changed();
    tell();
  });
}
