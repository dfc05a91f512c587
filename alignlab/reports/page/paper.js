"use strict";
// Draws the figures of the page of a paper: its numbers on the left and ours on the right, on the same axes.
(() => {
  const { data, CONFIG, byId, colour, dash, symbol, faint, plain, make, theme, axis, layout, keepDrawn } = alignlab;

  const traces = (series, names) => {
    if (series.style === "exact")
      return [{ x: series.x, y: series.y, mode: "lines", name: plain(series.name), line: { color: theme().ink, dash: "dash", width: 1.4 }, hovertemplate: "%{y:.4g} at %{x:.4g}<extra></extra>" }];
    const i = names.indexOf(series.name), found = [];
    const mode = { line: "lines", points: "markers", joined: "lines+markers" }[series.style];
    const made = { x: series.x, y: series.y, mode, name: plain(series.name), line: { color: colour(i), width: 1.8, dash: dash(i) },
      marker: { color: colour(i), size: 9, symbol: symbol(i) + (series.open ? "-open" : "") }, hovertemplate: `${plain(series.name)}<br>%{y:.4g} at %{x}<extra></extra>` };
    if (series.low.length && series.style === "line")
      found.push({ x: [...series.x, ...[...series.x].reverse()], y: [...series.high, ...[...series.low].reverse()], fill: "toself", fillcolor: faint(colour(i), 0.15), line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
    else if (series.low.length)
      made.error_y = { type: "data", symmetric: false, thickness: 1.2, width: 3, array: series.high.map((high, k) => high - series.y[k]), arrayminus: series.low.map((low, k) => series.y[k] - low) };
    if (series.left.length)
      made.error_x = { type: "data", symmetric: false, thickness: 1.2, width: 3, array: series.right.map((right, k) => right - series.x[k]), arrayminus: series.left.map((left, k) => series.x[k] - left) };
    return [...found, made];
  };

  const drawn = (figure, panel) => {
    const id = `figure-${figure.name}-${panel.row}-${panel.side}`;
    if (!byId(id)) return;
    const x = figure.categories.length ? { type: "category", categoryorder: "array", categoryarray: figure.categories, range: [-0.5, figure.categories.length - 0.5] }
      : figure.log_x ? { type: "log" } : { range: figure.x_range };
    Plotly.react(id, panel.series.flatMap((series) => traces(series, figure.names)), layout({
      height: 300, showlegend: false, margin: { l: 55, r: 8, t: panel.title ? 28 : 8, b: 45 }, title: { text: plain(panel.title), font: { size: 13 }, y: 0.98 },
      xaxis: axis(figure.x, x), yaxis: axis(figure.y, { range: figure.y_range }) }), CONFIG);
  };

  const legend = (figure) => {
    const exact = new Set(figure.panels.flatMap((panel) => panel.series).filter((series) => series.style === "exact").map((series) => series.name));
    const marks = [...figure.names.map((name, i) => [name, colour(i), dash(i)]), ...[...exact].map((name) => [name, theme().ink, "dash"])];
    byId(`legend-${figure.name}`).replaceChildren(...marks.map(([name, shown, line]) => {
      const made = make("span", name);
      made.style.setProperty("--colour", shown);
      made.style.setProperty("--line", line === "solid" ? "solid" : "dashed");
      return made;
    }));
  };

  keepDrawn(() => {
    for (const figure of data.figures) {
      figure.panels.forEach((panel) => drawn(figure, panel));
      legend(figure);
    }
  });
})();
