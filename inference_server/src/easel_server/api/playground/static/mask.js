// A mask painted over an image: what is painted is generated anew. By pointer, finger or keyboard; every stroke can be undone.

import { button, make, numberWithSlider } from "./dom.js";

const MAX_OPERATIONS = 300; // the first of more can't be undone any more, and stay
const BRUSH_PERCENT = { min: 1, max: 50, step: 1, value: 10 }; // of the shorter side
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class MaskPainter {
  #operations = []; // {kind: "stroke", points, radius, erases} | {kind: "clear" | "invert"}
  #settled = null; // a canvas of what can't be undone
  #stroke = null;
  #at = { x: 0, y: 0 };

  constructor() {
    this.canvas = make("canvas", {
      tabindex: "0", role: "application", "aria-label": "Mask over the input image", "aria-describedby": "mask-keys mask-state",
    });
    this.shown = make("img", { alt: "" });
    this.ring = make("div", { class: "ring", "aria-hidden": "true" });
    this.state = make("p", { id: "mask-state", class: "hint", role: "status" });
    this.brush = numberWithSlider("brush-size", "Brush size, in percent", BRUSH_PERCENT, () => this.#showRing());
    this.eraser = make("input", { id: "mask-erase", type: "checkbox" });
    this.undoing = button("Undo", () => this.undo());
    const keys = "Paint what is to be generated anew. By keyboard: arrows move the brush, with Shift they paint; Space paints a dot, " +
      "E switches the eraser, + and − change the size, Ctrl+Z undoes.";
    this.element = make(
      "div", { class: "mask", role: "group", "aria-label": "Mask", hidden: true },
      make("div", { class: "easel" }, this.shown, this.canvas, this.ring),
      make("p", { id: "mask-keys", class: "hint" }, keys),
      this.brush.field,
      make("div", { class: "check" }, this.eraser, make("label", { for: "mask-erase" }, "Erase")),
      make("div", { class: "actions" }, this.undoing, button("Clear the mask", () => this.#apply({ kind: "clear" })),
        button("Invert the mask", () => this.#apply({ kind: "invert" }))),
      this.state);
    this.#listen();
  }

  // Over this image, or over none. ``mask``: a data: URL to begin with.
  async begin(image, mask = null) {
    this.#operations = [];
    this.#stroke = null;
    this.element.hidden = !image;
    if (!image) return;
    this.shown.src = image.url;
    Object.assign(this.canvas, { width: image.width, height: image.height });
    this.#settled = new OffscreenCanvas(image.width, image.height);
    if (mask) await this.#load(mask);
    this.#at = { x: image.width / 2, y: image.height / 2 };
    this.#draw();
  }

  // A data: URL, white where it is painted; null where nothing is.
  read() {
    if (this.element.hidden || !this.#coverage()) return null;
    const { width, height } = this.canvas;
    const flat = make("canvas", { width, height });
    const context = flat.getContext("2d");
    context.fillRect(0, 0, width, height);
    context.drawImage(this.canvas, 0, 0);
    return flat.toDataURL("image/png");
  }

  undo() {
    this.#operations.pop();
    this.#draw();
  }

  async #load(url) {
    const picture = make("img", { src: url });
    await picture.decode();
    const context = this.#settled.getContext("2d");
    context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    const pixels = context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      pixels.data[at + 3] = pixels.data[at];
      pixels.data.fill(255, at, at + 3);
    }
    context.putImageData(pixels, 0, 0);
  }

  get #radius() {
    const percent = Math.min(Math.max(Number(this.brush.number.value) || BRUSH_PERCENT.value, BRUSH_PERCENT.min), BRUSH_PERCENT.max);
    return (Math.min(this.canvas.width, this.canvas.height) * percent) / 200;
  }

  #listen() {
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.canvas.setPointerCapture(event.pointerId);
      this.#start(this.#locate(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.#at = this.#locate(event);
      this.#showRing();
      if (this.#stroke) this.#extend(this.#at);
    });
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => this.#end());
    this.canvas.addEventListener("keydown", (event) => this.#press(event));
    this.canvas.addEventListener("focus", () => this.#showRing());
  }

  #press(event) {
    const { key, ctrlKey, metaKey, shiftKey, altKey } = event;
    const move = MOVES[key];
    if (key === "z" && (ctrlKey || metaKey)) this.undo();
    else if (ctrlKey || metaKey || altKey) return;
    else if (move) this.#move(move, shiftKey);
    else if (key === " ") this.#dot();
    else if (key === "e" || key === "E") this.eraser.click();
    else if (key === "+" || key === "-" || key === "−") this.#resize(key === "+" ? 1 : -1);
    else return;
    event.preventDefault();
  }

  #move([x, y], paints) {
    const { width, height } = this.canvas;
    const from = this.#at;
    const step = Math.max(1, this.#radius / 2);
    this.#at = { x: clamp(from.x + x * step, width), y: clamp(from.y + y * step, height) };
    if (paints) {
      this.#start(from);
      this.#extend(this.#at);
      this.#end();
    }
    this.#showRing();
    const percent = (value, whole) => Math.round((100 * value) / whole);
    this.#say(`Brush at ${percent(this.#at.x, width)} % from the left, ${percent(this.#at.y, height)} % from the top. `);
  }

  #dot() {
    this.#start(this.#at);
    this.#end();
  }

  #resize(change) {
    const { min, max } = BRUSH_PERCENT;
    this.brush.set(Math.min(Math.max(Number(this.brush.number.value) + change, min), max));
    this.#showRing();
    this.#say(`Brush size ${this.brush.number.value} %. `);
  }

  #locate({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return { x: ((clientX - left) / width) * this.canvas.width, y: ((clientY - top) / height) * this.canvas.height };
  }

  #start(point) {
    this.#stroke = { kind: "stroke", points: [point], radius: this.#radius, erases: this.eraser.checked };
    perform(this.canvas, this.#stroke);
  }

  #extend(point) {
    const before = this.#stroke.points.at(-1);
    this.#stroke.points.push(point);
    perform(this.canvas, { ...this.#stroke, points: [before, point] });
  }

  #end() {
    if (!this.#stroke) return;
    this.#operations.push(this.#stroke);
    this.#stroke = null;
    this.#settle();
    this.#say();
  }

  #apply(operation) {
    this.#operations.push(operation);
    this.#settle();
    this.#draw();
  }

  #settle() {
    while (this.#operations.length > MAX_OPERATIONS) perform(this.#settled, this.#operations.shift());
  }

  #draw() {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.#settled, 0, 0);
    for (const operation of this.#operations) perform(this.canvas, operation);
    this.#showRing();
    this.#say();
  }

  #showRing() {
    const { width, height } = this.canvas;
    const { style } = this.ring;
    style.left = `${(100 * this.#at.x) / width}%`;
    style.top = `${(100 * this.#at.y) / height}%`;
    style.width = `${(200 * this.#radius) / width}%`;
  }

  #say(before = "") {
    this.undoing.setAttribute("aria-disabled", String(!this.#operations.length));
    const share = this.#coverage();
    const percent = share ? `${Math.max(1, Math.round(100 * share))} %` : "Nothing";
    this.state.textContent = `${before}${percent} is painted${this.eraser.checked ? "; the eraser is on" : ""}.`;
  }

  #coverage() {
    const { width, height } = this.canvas;
    const { data } = this.canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height);
    let painted = 0;
    for (let at = 3; at < data.length; at += 4) if (data[at] > 127) painted += 1;
    return painted / (width * height);
  }
}

function clamp(value, most) {
  return Math.min(Math.max(value, 0), most);
}

function perform(canvas, { kind, points, radius, erases }) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const { width, height } = canvas;
  if (kind === "clear") return context.clearRect(0, 0, width, height);
  context.save();
  context.fillStyle = context.strokeStyle = "#fff";
  if (kind === "invert") {
    context.globalCompositeOperation = "xor";
    context.fillRect(0, 0, width, height);
    return context.restore();
  }
  if (erases) context.globalCompositeOperation = "destination-out";
  Object.assign(context, { lineWidth: 2 * radius, lineCap: "round", lineJoin: "round" });
  context.beginPath(); // a line without length is none, even with round ends
  context.arc(points[0].x, points[0].y, radius, 0, 2 * Math.PI);
  context.fill();
  context.beginPath();
  context.moveTo(points[0].x, points[0].y);
  for (const { x, y } of points) context.lineTo(x, y);
  context.stroke();
  return context.restore();
}
