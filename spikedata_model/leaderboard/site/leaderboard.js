// Tables that sort, and a first table that filters. Without this file the pages hold the same.
// What is chosen stands in the address after "#", so that a view can be sent as a link.
"use strict";

document.documentElement.classList.add("scripts"); // before anything is drawn: nothing moves later

const FIRST = 200; // rows shown at once, until all are asked for
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function valueOf(row, column, numeric) {
  const cell = row.cells[column];
  if (!numeric) return cell.textContent.trim();
  return cell.dataset.v === undefined || cell.dataset.v === "" ? NaN : Number(cell.dataset.v);
}

// A number that is not there stands last, whichever way the others go.
function compare(a, b, numeric, sign) {
  if (!numeric) return sign * collator.compare(a, b);
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
  return sign * ((a > b) - (a < b));
}

class SortedTable {
  constructor(table, changed) {
    this.heads = [...table.tHead.rows[0].cells];
    this.bodies = [...table.tBodies].map((body) => {
      const rows = [...body.rows].filter((row) => !row.classList.contains("title"));
      return { body, rows, title: body.querySelector("tr.title") };
    });
    this.key = "";
    this.order = "";
    this.changed = changed;
    for (const head of this.heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => this.turn(head));
    }
  }

  // Numbers begin with the largest and words with A; then the other way; then as it was written.
  turn(head) {
    const first = head.dataset.kind === "number" ? "desc" : "asc";
    const other = first === "desc" ? "asc" : "desc";
    const same = this.key === head.dataset.key;
    const order = same ? { [first]: other, [other]: "" }[this.order] : first;
    this.sort(order ? head.dataset.key : "", order);
    this.changed();
  }

  sort(key, order) {
    const column = this.heads.findIndex((head) => head.dataset.key === key);
    this.key = column < 0 ? "" : key;
    this.order = column < 0 ? "" : order === "asc" ? "asc" : "desc";
    for (const head of this.heads) head.removeAttribute("aria-sort");
    if (column >= 0) {
      const words = this.order === "asc" ? "ascending" : "descending";
      this.heads[column].setAttribute("aria-sort", words);
    }
    const numeric = column >= 0 && this.heads[column].dataset.kind === "number";
    const sign = this.order === "asc" ? 1 : -1;
    for (const { body, rows } of this.bodies) {
      let sorted = rows;
      if (column >= 0) {
        sorted = rows
          .map((row, at) => ({ row, at, value: valueOf(row, column, numeric) }))
          .sort((a, b) => compare(a.value, b.value, numeric, sign) || a.at - b.at)
          .map((one) => one.row);
      }
      body.append(...sorted);
    }
  }
}

class Results {
  constructor(table, form) {
    this.form = form;
    this.status = form.querySelector("[role=status]");
    this.all = false;
    this.table = new SortedTable(table, () => this.show());
    this.rows = this.table.bodies.flatMap((one) => one.rows);
    this.text = new Map(this.rows.map((row) => [row, row.textContent.toLowerCase()]));
    this.more = document.createElement("button");
    this.more.type = "button";
    this.more.className = "more";
    this.more.addEventListener("click", () => {
      this.all = true;
      this.show();
    });
    table.parentElement.after(this.more);
    form.addEventListener("input", () => this.show());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const field of this.fields()) field.value = "";
      this.table.sort("", "");
      this.show();
    });
    addEventListener("hashchange", () => this.read());
    this.read();
  }

  fields() {
    return [...this.form.elements].filter((one) => one.name);
  }

  read() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const field of this.fields()) {
      field.value = state.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = ""; // a choice that there is not
    }
    this.table.sort(state.get("sort") ?? "", state.get("order") ?? "");
    this.draw();
  }

  show() {
    const state = new URLSearchParams();
    for (const field of this.fields()) if (field.value) state.set(field.name, field.value);
    if (this.table.key) {
      state.set("sort", this.table.key);
      state.set("order", this.table.order);
    }
    const hash = state.toString();
    // An address without "#" is a new page to a browser, "#" alone the top of this one.
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    this.draw();
  }

  draw() {
    const given = Object.fromEntries(this.fields().map((one) => [one.name, one.value]));
    const words = given.q.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = ["suite", "protocol", "causality", "labels"].filter((name) => given[name]);
    let found = 0;
    let shown = 0;
    for (const { body, title } of this.table.bodies) {
      const before = shown;
      for (const row of body.rows) {
        if (row === title) continue;
        const fits =
          chosen.every((name) => row.dataset[name] === given[name]) &&
          words.every((word) => this.text.get(row).includes(word));
        found += fits;
        const visible = fits && (this.all || shown < FIRST);
        shown += visible;
        row.hidden = !visible;
      }
      if (title) title.hidden = shown === before;
    }
    const all = this.rows.length;
    const said = found === all ? `${all} rows.` : `${found} of ${all} rows.`;
    this.status.textContent = found > shown ? `${said} The first ${shown} are shown.` : said;
    this.more.hidden = found === shown;
    this.more.textContent = `Show all ${found} rows`;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filters");
  for (const table of document.querySelectorAll("table.sortable")) {
    if (form && table.id === "results") new Results(table, form);
    else new SortedTable(table, () => {});
  }
});
