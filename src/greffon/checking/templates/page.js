"use strict";
const manifest = JSON.parse(document.getElementById("manifest").textContent);
const column = Object.fromEntries(manifest.columns.map((name, place) => [name, place]));
const choices = Array.from(document.querySelectorAll(".choice"));
const same = (one, other) => ["path", "hash", "kind"].every((name) => one[column[name]] === other[column[name]]);

function show() {
  for (const choice of choices) {
    const decision = manifest.rows[Number(choice.dataset.row)][column.decision];
    for (const button of choice.children) {
      button.setAttribute("aria-pressed", String(button.dataset.decision === decision));
    }
  }
  const decided = manifest.rows.filter((row) => row[column.decision] !== "").length;
  document.getElementById("decided").textContent = decided + " decided";
}

for (const choice of choices) {
  choice.addEventListener("click", (event) => {
    const decision = event.target.dataset.decision;
    if (!decision) return;
    const row = manifest.rows[Number(choice.dataset.row)];
    const next = row[column.decision] === decision ? "" : decision;
    for (const other of manifest.rows) if (same(other, row)) other[column.decision] = next;
    show();
  });
}

function csv() {
  const cell = (value) => (/[",\r\n]/.test(value) || value === "" ? '"' + value.replaceAll('"', '""') + '"' : value);
  return [manifest.columns, ...manifest.rows].map((row) => row.map(cell).join(",") + "\n").join("");
}

document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "manifest.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});
show();
