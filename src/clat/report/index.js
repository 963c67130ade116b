"use strict";
// Sorts and filters the table of runs; without it the table stands as it is.
const table = document.getElementById("runs"), body = table.tBodies[0], rows = [...body.rows];
const filter = document.getElementById("filter"), sort = document.getElementById("sort");
const descending = document.getElementById("descending"), shown = document.getElementById("shown");

function key(row, column) {
  const value = row.cells[column].dataset.sort, number = Number(value);
  return value !== "" && !Number.isNaN(number) ? number : value;
}

function compare(one, other) {
  if (typeof one === typeof other) return one < other ? -1 : one > other ? 1 : 0;
  return typeof one === "number" ? -1 : 1;
}

function update() {
  const column = Number(sort.value), sign = descending.checked ? -1 : 1;
  const ordered = [...rows].sort((one, other) => sign * compare(key(one, column), key(other, column)));
  body.append(...ordered);
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += !row.hidden;
    for (const point of document.querySelectorAll(`[id$="-run-${row.dataset.run}"]`)) {
      point.toggleAttribute("hidden", row.hidden);
    }
  }
  shown.textContent = `${count} of ${rows.length} runs`;
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

[...table.tHead.rows[0].cells].forEach((cell, place) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = cell.textContent;
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    descending.checked = Number(sort.value) === place ? !descending.checked : cell.classList.contains("num") && place > 0;
    sort.value = String(place);
    update();
  });
});
for (const [control, event] of [[filter, "input"], [sort, "change"], [descending, "change"]]) {
  control.addEventListener(event, update);
}
filter.form.addEventListener("submit", (event) => event.preventDefault());
filter.form.hidden = false;
update();
