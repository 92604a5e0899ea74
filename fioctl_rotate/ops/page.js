// Filter by text and state, sort by a click on a heading. Everything is on the page; nothing is loaded.
const tools = document.getElementById("tools");
const rows = [...document.querySelectorAll(".devices tbody tr")];
const text = document.getElementById("filter");
const state = document.getElementById("state");
function filter() {
  const wanted = text.value.toLowerCase();
  let shown = 0;
  for (const row of rows) {
    const fits = row.textContent.toLowerCase().includes(wanted) && (!state.value || row.dataset.state === state.value);
    row.hidden = !fits;
    shown += fits;
  }
  for (const fold of document.querySelectorAll("details")) {
    const some = [...fold.querySelectorAll("tbody tr")].some((row) => !row.hidden);
    fold.hidden = !some;
    if ((wanted || state.value) && some) fold.open = true;
  }
  document.getElementById("shown").textContent = shown + " of " + rows.length + " rows";
}
function sort(button) {
  const heading = button.closest("th");
  const body = heading.closest("table").tBodies[0];
  const place = heading.cellIndex;
  const up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[place].textContent;
  const sorted = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), undefined, { numeric: true }));
  body.append(...(up ? sorted : sorted.reverse()));
}
// Paper cannot be unfolded: print everything open.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
});
if (tools && rows.length > 1) {
  tools.hidden = false;
  text.addEventListener("input", filter);
  state.addEventListener("change", filter);
  for (const heading of document.querySelectorAll("table.rows th")) {
    const button = document.createElement("button");
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(button));
    heading.replaceChildren(button);
  }
}
