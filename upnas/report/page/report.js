// Draws the figures that Python built, in the page's colours.
"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const theme = () => ({
  "font.color": color("--text"),
  "hoverlabel.bgcolor": color("--card"),
  "hoverlabel.font.color": color("--text"),
});
for (const [id, figure] of Object.entries(figures)) {
  const slot = document.getElementById(id);
  Plotly.newPlot(slot, figure.data, figure.layout, { responsive: true, displaylogo: false })
    .then(() => Plotly.relayout(slot, theme()));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const id of Object.keys(figures)) Plotly.relayout(document.getElementById(id), theme());
});
