"use strict";
const find = (what) => document.querySelector(what);
const all = (what) => document.querySelectorAll(what);

for (const each of all(".scripted")) each.hidden = false; // without a script, what needs one is not shown

find("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const step = find("#step");
const view = find("#view");
function show() {
  const decoded = view !== null && view.value === "decoded";
  if (step) {
    step.disabled = decoded;
    find("#at").value = step.dataset.labels.split("|")[decoded ? step.max : step.value];
  }
  const way = step && !decoded && step.value !== step.max ? step.value : null;
  for (const button of all(".zoom")) {
    const wanted = way !== null ? `[data-view="step"][data-step="${way}"]` : `[data-view="${decoded ? "decoded" : "stored"}"]`;
    const chosen = button.querySelector(wanted) ?? button.querySelector("img");
    for (const img of button.querySelectorAll("img")) img.hidden = img !== chosen;
  }
}
step?.addEventListener("input", show);
view?.addEventListener("change", show);

const filter = find("#filter");
filter?.addEventListener("input", () => {
  const wanted = filter.value.trim().toLowerCase();
  for (const figure of all("figure[data-class]")) {
    figure.hidden = !figure.dataset.class.toLowerCase().includes(wanted);
  }
  const gallery = find(".gallery");
  const shown = gallery.querySelectorAll("figure:not([hidden])").length;
  find("#found").value = wanted ? `${shown} of ${gallery.children.length}` : "";
});

const dialog = document.createElement("dialog");
document.body.append(dialog);
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // outside of it
});
for (const button of all(".zoom")) {
  button.addEventListener("click", () => {
    const img = button.querySelector("img:not([hidden])").cloneNode();
    const title = document.createElement("p");
    const close = document.createElement("button");
    title.textContent = button.closest("figure").dataset.class;
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    title.append(close);
    dialog.replaceChildren(title, img);
    dialog.setAttribute("aria-label", img.alt);
    dialog.className = `${button.closest(".gallery").className.includes("crisp") ? "crisp" : ""} ${img.width < 200 ? "small" : ""}`;
    dialog.showModal();
  });
}

for (const block of navigator.clipboard ? all(".copyable") : []) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(block.querySelector("code").textContent);
    button.textContent = "Copied";
  });
  block.append(button);
}
