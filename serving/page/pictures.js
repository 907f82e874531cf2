// The user's pictures: from files to data URLs, and the tray that previews them.
//
// A photograph of twelve megapixels has several megabytes, but the model sees a few hundred pixels a side. So large
// pictures are scaled down in the browser, and the preview says so. Small ones are sent unchanged.

import { announce, make, tool } from "./dom.js";

const LONGEST_SIDE = 1024; // pixels
const LARGEST_FILE = 1 << 20; // bytes
const AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]); // every server reads these

// { url, name, width, height, note } of a file. Throws a readable Error if it is not a picture.
export async function readPicture(file) {
  const name = file.name || "picture";
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // applies EXIF orientation
  } catch {
    throw new Error(`${name} is not a picture that this browser can read`);
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  if (scale === 1 && file.size <= LARGEST_FILE && AS_THEY_ARE.has(file.type)) {
    bitmap.close();
    return { url: await dataUrl(file), name, width, height, note: "" };
  }
  const canvas = make("canvas", { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // JPEG has no transparency
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const small = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  const note = scale < 1 ? `scaled from ${width} × ${height} to ${canvas.width} × ${canvas.height}` : "sent as JPEG";
  return { url: await dataUrl(small), name, width: canvas.width, height: canvas.height, note };
}

// A picture of this page, for examples.
export async function fetchPicture(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error("the example's picture is missing");
  return readPicture(new File([await answer.blob()], address.split("/").pop(), { type: answer.headers.get("Content-Type") }));
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the file could not be read"));
    reader.readAsDataURL(blob);
  });
}

// The pictures among dropped or pasted items.
export const filesOf = (transfer) => [...(transfer?.files ?? [])];

// A list of previews. `changed(map)` is called after every change; `map` gives the new index of each old one (null: removed).
export class Tray {
  constructor(list, { limit = () => 16, changed = () => {}, refused = announce } = {}) {
    Object.assign(this, { list, limit, changed, refused, pictures: [], reading: Promise.resolve() });
    this.draw();
  }

  // Reads files one by one, to keep their order. Resolves when all are read or refused.
  add(files) {
    this.reading = this.reading.then(async () => {
      for (const file of files) {
        if (this.pictures.length >= this.limit()) {
          this.refused(`No more than ${this.limit()} pictures fit in one conversation; ${file.name} was left out.`);
          return;
        }
        try {
          this.put(await readPicture(file));
        } catch (error) {
          this.refused(`${error.message}.`);
        }
      }
    });
    return this.reading;
  }

  put(picture) {
    const map = this.pictures.map((_, place) => place);
    this.pictures.push(picture);
    this.draw();
    announce(`Picture ${this.pictures.length} added: ${picture.name}${picture.note ? `, ${picture.note}` : ""}`);
    this.changed(map, this.pictures.length - 1);
  }

  set(pictures) {
    this.pictures = [...pictures];
    this.draw();
  }

  remove(place) {
    const [gone] = this.pictures.splice(place, 1);
    this.draw();
    announce(`${gone.name} removed`);
    this.changed(Array.from({ length: this.pictures.length + 1 }, (_, old) => (old === place ? null : old - (old > place))));
    (this.list.children[Math.min(place, this.pictures.length - 1)]?.querySelector(".remove") ?? this.home)?.focus();
  }

  move(place, by) {
    const to = place + by;
    const map = this.pictures.map((_, old) => (old === place ? to : old === to ? place : old));
    [this.pictures[place], this.pictures[to]] = [this.pictures[to], this.pictures[place]];
    this.draw();
    announce(`${this.pictures[to].name} is now picture ${to + 1}`);
    this.changed(map);
    const buttons = this.list.children[to].querySelectorAll(by < 0 ? ".left, .right" : ".right, .left");
    [...buttons].sort((one) => (one.classList.contains(by < 0 ? "left" : "right") ? -1 : 1)).find((one) => !one.disabled)?.focus();
  }

  draw() {
    const count = this.pictures.length;
    this.list.hidden = count === 0;
    this.list.replaceChildren(
      ...this.pictures.map((picture, place) => {
        const called = `picture ${place + 1}, ${picture.name}`;
        return make(
          "li",
          { title: [picture.name, picture.note].filter(Boolean).join(": ") },
          make("img", { src: picture.url, alt: `Picture ${place + 1}: ${picture.name}` }),
          count > 1 && make("span", { className: "number", "aria-hidden": "true" }, String(place + 1)),
          tool("close", `Remove ${called}`, () => this.remove(place), { className: "tool remove" }),
          count > 1 &&
            make(
              "div",
              { className: "order" },
              tool("left", `Move ${called} to the left`, () => this.move(place, -1), { className: "tool left", disabled: place === 0 }),
              tool("right", `Move ${called} to the right`, () => this.move(place, 1), { className: "tool right", disabled: place === count - 1 }),
            ),
          picture.note && make("p", { className: "scaled" }, picture.note),
        );
      }),
    );
  }
}
