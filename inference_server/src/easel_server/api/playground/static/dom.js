// Elements without HTML: whatever a name or a recipe says, it is text.

export const byId = (id) => document.getElementById(id);

// An element; ``properties`` are attributes, or listeners by "onclick" and such.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

export function button(text, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, text);
}

// A labelled control: its field.
export function labelled(text, control, ...more) {
  return make("div", { class: "field" }, make("label", { for: control.id }, text), control, ...more);
}

export function choices(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

// A number and a slider that show one value; ``label`` names both. Returns {field, number, set}.
export function numberWithSlider(id, label, { min, max, step, value }, onInput = () => {}) {
  const number = make("input", { id, type: "number", inputmode: "decimal", step: "any", value });
  const slider = make("input", { type: "range", "aria-label": `${label}, slider`, min, max, step, value });
  number.addEventListener("input", () => { slider.value = number.value; onInput(); });
  slider.addEventListener("input", () => { number.value = slider.value; onInput(); });
  const set = (next) => { number.value = next; slider.value = next; };
  const both = make("div", { class: "with-slider" }, slider, number);
  return { field: make("div", { class: "field" }, make("label", { for: id }, label), both), number, set };
}
