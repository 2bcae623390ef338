"use strict";

/* The number a cell begins with, or null. */
function leadingNumber(text) {
  const found = /^[+\-−]?\d+(\.\d+)?(e[+-]?\d+)?/i.exec(text.trim());
  return found ? Number(found[0].replace("−", "-").replace("+", "")) : null;
}

/* Order of rows by their cells in a column; empty cells come last either way. */
function sortedOrder(cells, descending) {
  const filled = cells.filter((cell) => cell.trim() !== "");
  const numbers = filled.every((cell) => leadingNumber(cell) !== null);
  const sign = descending ? -1 : 1;
  const compare = (a, b) =>
    numbers ? leadingNumber(a) - leadingNumber(b) : a.localeCompare(b, "en", { numeric: true });
  return cells
    .map((_, row) => row)
    .sort((a, b) => {
      const [one, other] = [cells[a].trim(), cells[b].trim()];
      if (one === "" || other === "") return (one === "") - (other === "") || a - b;
      return sign * compare(one, other) || a - b;
    });
}

function sortTable(button) {
  const head = button.closest("th");
  const body = head.closest("table").tBodies[0];
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = Array.from(body.rows);
  const cells = rows.map((row) => row.cells[head.cellIndex].textContent);
  body.append(...sortedOrder(cells, descending).map((row) => rows[row]));
}

/* What stands below a frame: of the step asked for, or the last one there is. */
function frameAt(step, psnr, ends) {
  const shown = Math.min(step, psnr.length - 1);
  const module = ends.indexOf(shown);
  const where =
    shown === 0 ? "zero-filled" : module < 0 || ends.length < 2 ? "" : `end of module ${module + 1}`;
  const text = `step ${shown} of ${psnr.length - 1}: ${psnr[shown].toFixed(2)} dB`;
  return { shown, text: where ? `${text}, ${where}` : text };
}

function moveSlider(slider) {
  const step = Number(slider.querySelector("input").value);
  slider.querySelector("label output").textContent = String(step);
  for (const frame of slider.querySelectorAll(".frame[data-psnr]")) {
    const psnr = JSON.parse(frame.dataset.psnr);
    const { shown, text } = frameAt(step, psnr, JSON.parse(frame.dataset.ends));
    const image = frame.querySelector("div");
    const share = psnr.length > 1 ? shown / (psnr.length - 1) : 0;
    image.style.backgroundPosition = `0 ${100 * share}%`;
    image.setAttribute("aria-label", `${frame.dataset.name}, ${text}`);
    frame.querySelector("output").textContent = text;
  }
}

if (typeof document !== "undefined") {
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortTable(button));
  }
  for (const slider of document.querySelectorAll(".slider")) {
    slider.querySelector("input").addEventListener("input", () => moveSlider(slider));
    moveSlider(slider);
  }
}
if (typeof module !== "undefined") module.exports = { leadingNumber, sortedOrder, frameAt };
