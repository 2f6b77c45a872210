// Says the values under the pointer.
for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const curves = JSON.parse(svg.dataset.hover);
  const cursor = svg.querySelector(".cursor");
  const output = svg.parentElement.querySelector("output");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const near = curves.map(([name, points]) => [
      name, points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best)),
    ]);
    if (!near.length) return;
    cursor.setAttribute("x1", near[0][1][0]);
    cursor.setAttribute("x2", near[0][1][0]);
    cursor.style.visibility = "visible";
    const values = near.map(([name, point]) => (curves.length > 1 ? name + " " : "") + point[2]);
    output.textContent = "step " + near[0][1][1].toLocaleString("en") + ": " + values.join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    output.textContent = "";
  });
}
