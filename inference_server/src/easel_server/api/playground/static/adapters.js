// Adapters with weights, of those that the service has.

import { button, byId, make, numberWithSlider } from "./dom.js";

const WEIGHTS = { min: -1, max: 2, step: 0.05 }; // of the slider; the number takes what the service does

export class Adapters {
  name = "loras";
  title = "Adapters";
  #offered = [];
  #most = 0;
  #rows = new Map(); // by name: {element, number}
  #unknown = []; // of what was filled in

  constructor() {
    byId("adapter").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) { event.preventDefault(); this.#addChosen(); }
    });
    byId("add-adapter").addEventListener("click", () => this.#addChosen());
  }

  apply({ adapters, limits }) {
    this.#offered = adapters;
    this.#most = limits.max_adapters;
    this.isOffered = adapters.length > 0 && this.#most > 0;
    byId("part-loras").hidden = !this.isOffered;
    this.#render();
  }

  read() {
    const loras = [...this.#rows].map(([name, { number }]) => ({ name, ...(number.value.trim() && { weight: Number(number.value) }) }));
    return loras.length ? { loras } : {};
  }

  // Those that this service doesn't have are said, not asked for.
  fill({ loras = [] }) {
    for (const { element } of this.#rows.values()) element.remove();
    this.#rows.clear();
    this.#unknown = [];
    for (const { name, weight } of loras) {
      if (this.#offered.some((one) => one.name === name)) this.#add(name, weight);
      else this.#unknown.push(name);
    }
    this.#render();
    if (this.#rows.size) byId("part-loras").open = true;
    return this.#unknown.map((name) => `the adapter ${name} is none of this service’s`);
  }

  findControl() {
    return [...this.#rows.values()].map(({ number }) => number).find(({ validity }) => !validity.valid) ?? byId("adapter");
  }

  find() {
    const isBad = [...this.#rows.values()].some(({ number }) => number.validity.badInput);
    return isBad ? [{ field: "input.loras", description: "have a weight that is not a number" }] : [];
  }

  focus() {
    byId("part-loras").open = true;
    byId("adapter").focus();
  }

  #addChosen() {
    const name = byId("adapter").value;
    if (!name || this.#rows.size >= this.#most) return;
    this.#add(name);
    this.#render();
    this.#rows.get(name).number.focus();
  }

  #add(name, weight) {
    const { default_weight: own } = this.#offered.find((one) => one.name === name);
    const id = `adapter-${this.#offered.findIndex((one) => one.name === name)}`;
    const { field, number } = numberWithSlider(id, `Weight of ${name}`, { ...WEIGHTS, value: weight ?? own });
    const removal = button("Remove", () => this.#remove(name), { "aria-label": `Remove ${name}` });
    const element = make("li", {}, field, removal);
    byId("adapters").append(element);
    this.#rows.set(name, { element, number });
  }

  #remove(name) {
    this.#rows.get(name).element.remove();
    this.#rows.delete(name);
    this.#render();
    byId("adapter").focus();
  }

  #render() {
    const left = this.#offered.filter(({ name }) => !this.#rows.has(name));
    byId("adapter").replaceChildren(...left.map(({ name }) => new Option(name, name)));
    const isFull = this.#rows.size >= this.#most || !left.length;
    byId("add-adapter").setAttribute("aria-disabled", String(isFull));
    byId("loras-hint").textContent = `${this.#rows.size} of at most ${Math.min(this.#most, this.#offered.length)} in use.`;
  }
}
