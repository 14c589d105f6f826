"use strict";
// A picture as a file: chosen, dropped or pasted. Its value is { b64, name, type, url }; name is "" for an example.

const SMALL = 32; // pixels: pictures up to this size are shown enlarged, with hard edges

/** Return a file as the value of a picture. */
async function pictureOf(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  return { b64: url.slice(url.indexOf(",") + 1), name: file.name || "picture", type: file.type || "application/octet-stream", url };
}

/** Return bytes in base64 as the value of a picture. */
function pictureFrom(b64) {
  const types = { iVBOR: "image/png", "/9j/": "image/jpeg", R0lGO: "image/gif", Qk: "image/bmp", UklGR: "image/webp" };
  const type = Object.entries(types).find(([start]) => b64.startsWith(start))?.[1] || "application/octet-stream";
  return { b64, name: "", type, url: `data:${type};base64,${b64}` };
}

/** Show a picture; where the browser has no decoder for it, its place stays empty. */
function thumbnail(url, alt) {
  const image = element("img", { class: "picture", src: url, alt });
  image.addEventListener("load", () => image.classList.toggle("small", Math.max(image.naturalWidth, image.naturalHeight) <= SMALL));
  return image;
}

/** Return a place for files: `take` gets what was chosen, dropped or pasted there. */
function dropPlace({ id, label, take, isMany }, preview, ...more) {
  const input = element("input", {
    type: "file", accept: "image/*", id, "aria-label": label, multiple: isMany,
    change: () => takeAll([...input.files]),
  });
  const takeAll = (files) => files.length && take(files);
  const place = element(
    "div", { class: "drop" },
    preview,
    element(
      "div", { class: "choose" },
      element("label", { class: "file" }, "Choose a picture", input),
      element("p", { class: "quiet" }, "or drop or paste one here"),
      ...more,
    ),
  );
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    takeAll([...event.dataTransfer.files]);
  });
  place.takeFiles = takeAll;
  return place;
}

// A picture that is pasted goes to the place that has the focus, or else to the first one.
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
  const place = document.activeElement?.closest(".drop") || document.querySelector(".drop");
  if (files.length && place) {
    event.preventDefault();
    place.takeFiles(files);
  }
});
