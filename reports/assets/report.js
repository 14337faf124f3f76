(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const drawn = new Set();
  let printing = false;
  const value = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme(layout) {
    const line = value("--line");
    const out = {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...layout.font, color: value("--text"), family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: value("--card"), bordercolor: line, font: { color: value("--text") } },
    };
    for (const key of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      out[key] = { ...layout[key], gridcolor: line, zerolinecolor: line, linecolor: line };
    }
    out.annotations = (layout.annotations || []).map((note) =>
      note.name === "label" ? { ...note, bgcolor: value("--card") } : note);
    return out;
  }

  function draw(box) {
    const figure = figures[box.id];
    const layout = theme(figure.layout);
    if (printing) layout.width = box.clientWidth;
    Plotly.react(box, figure.data, layout, config);
    drawn.add(box);
  }

  function drawVisible() {
    for (const box of document.querySelectorAll(".plot")) {
      if (!drawn.has(box) && !box.closest("[hidden]")) draw(box);
    }
  }

  function redraw() {
    drawn.forEach(draw);
  }

  function pick(cell) {
    for (const select of document.querySelectorAll("select.cell")) select.value = cell;
    for (const panel of document.querySelectorAll("[data-cell]")) panel.hidden = panel.dataset.cell !== cell;
    drawVisible();
  }

  for (const select of document.querySelectorAll("select.cell")) {
    select.addEventListener("change", () => pick(select.value));
  }
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "copied";
    });
  }
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", drawVisible);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  function print(on) {
    printing = on;
    document.body.style.width = on ? "960px" : ""; // charts cannot shrink with the printed page
    redraw();
  }

  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  drawVisible();
})();
