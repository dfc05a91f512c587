"use strict";
// Draws the figures of the report of a sweep, and shows answers side by side.
(() => {
  const { data, COLOURS, CONFIG, byId, colour, dash, symbol, faint, plain, make, option, theme, axis, narrow, layout, bars, grouped, panels, keepDrawn } = alignlab;
  const line = (name) => data.lines.indexOf(name);
  const short = (row) => (row.strength === null ? row.line : `${row.line} ${row.strength}`);
  const byStrength = (rows) => [...rows].sort((a, b) => (a.strength ?? 0) - (b.strength ?? 0));

  // --- figures -----------------------------------------------------------------------------------------------------
  const frontier = () => {
    const { curves, settings, points, kl, reward } = data.frontier;
    const traces = curves.map((curve, i) => ({
      x: curve.kl, y: curve.reward, mode: "lines", name: "exact frontier", legendgroup: "frontier", showlegend: i === 0,
      line: { color: theme().ink, width: 2 }, hovertemplate: "frontier: %{y:.3f} at %{x:.3f} nats<extra></extra>",
    }));
    for (const [name, rows] of grouped(points, "line")) {
      const i = line(name);
      if (points.length > settings.length)
        traces.push({ x: rows.map((r) => r.kl), y: rows.map((r) => r.reward), mode: "markers", legendgroup: name, showlegend: false,
          marker: { color: colour(i), size: 5, opacity: 0.45, symbol: symbol(i) }, text: rows.map((r) => plain(`${r.setting}, ${r.run}`)),
          hovertemplate: "%{text}<br>KL %{x:.3f}, reward %{y:.3f}<extra></extra>" });
    }
    for (const [name, found] of grouped(settings, "line")) {
      const i = line(name), rows = byStrength(found);
      traces.push({ x: rows.map((r) => r.kl), y: rows.map((r) => r.reward), mode: "lines+markers", name: plain(name), legendgroup: name,
        line: { color: colour(i), width: 1.6, dash: dash(i) }, marker: { color: colour(i), size: 10, symbol: symbol(i) },
        error_x: bars(rows, "kl_low", "kl", "kl_high"), error_y: bars(rows, "reward_low", "reward", "reward_high"),
        text: rows.map((r) => plain(`${r.setting} (${r.n} seed${r.n === 1 ? "" : "s"}, interval over ${r.over})`)),
        hovertemplate: "%{text}<br>KL %{x:.3f}, reward %{y:.3f}<extra></extra>" });
    }
    const start = data.frontier.start;
    if (start !== null)
      traces.push({ x: [0], y: [start], mode: "markers", name: "start", marker: { color: theme().ink, size: 9, symbol: "diamond" }, hovertemplate: "start: %{y:.3f}<extra></extra>" });
    // intervals of two seeds can be wider than the figure; the axes follow the values
    const most = Math.max(0.5, ...points.map((r) => r.kl)), top = Math.max(...points.map((r) => r.reward));
    const ys = points.map((r) => r.reward).concat(start ?? [], curves.flatMap((c) => c.reward.filter((_, k) => c.kl[k] <= 1.15 * most)));
    const low = Math.min(...ys), high = Math.max(top, ...ys), room = 0.08 * (high - low || 1);
    Plotly.react("figure-frontier", traces, layout({ xaxis: axis(kl, { range: [Math.min(0, ...points.map((r) => r.kl)) - 0.03 * most, 1.15 * most] }), yaxis: axis(reward, { range: [low - room, high + room] }) }), CONFIG);
  };

  const strength = () => {
    const found = data.strength[byId("strength-metric").selectedIndex];
    const groups = [...grouped(found.rows, "line")];
    const xs = found.rows.map((r) => r.strength);
    const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 4;
    const ticks = [...new Set(xs)].sort((a, b) => a - b);
    const xMore = { type: log ? "log" : "linear", ...(ticks.length < 10 ? { tickvals: ticks, ticktext: ticks.map(String) } : {}) };
    const traces = [];
    groups.forEach(([name, unsorted], k) => {
      const rows = byStrength(unsorted), i = line(name), n = found.apart && k ? k + 1 : "";
      const on = { xaxis: `x${n}`, yaxis: `y${n}` };
      const band = rows.filter((r) => r.low !== null && r.high !== null);
      if (band.length)
        traces.push({ ...on, x: [...band.map((r) => r.strength), ...band.map((r) => r.strength).reverse()], y: [...band.map((r) => r.high), ...band.map((r) => r.low).reverse()],
          fill: "toself", fillcolor: faint(colour(i), 0.15), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: name });
      traces.push({ ...on, x: rows.map((r) => r.strength), y: rows.map((r) => r.value), mode: "lines+markers", name: plain(name), legendgroup: name, showlegend: !found.apart && groups.length > 1,
        line: { color: colour(i), dash: dash(i) }, marker: { color: colour(i), size: 8, symbol: symbol(i) }, text: rows.map((r) => plain(`${r.setting} (${r.n})`)),
        hovertemplate: "%{text}<br>%{y:.4g}<extra></extra>" });
    });
    const axes = found.apart ? panels(groups.map(([name]) => name), data.strength_axis, found.label, xMore)
      : { xaxis: axis(data.strength_axis, xMore), yaxis: axis(found.label) };
    Plotly.react("figure-strength", traces, layout(axes), CONFIG);
  };

  const curves = () => {
    const metric = data.curves.metrics[byId("curves-metric").selectedIndex];
    const by = byId("curves-axis").value;
    const at = data.curves.axes.indexOf(by);
    const keyOf = (s) => (at < 0 ? s.name : s.values[at]);
    const shown = data.curves.settings.filter((s) => s.curves[metric.name]);
    const keys = [...new Set(data.curves.settings.map(keyOf))];
    const facets = metric.apart ? [...new Set(shown.map((s) => s.line))] : [""];
    const bands = shown.length <= data.curves.most_bands;
    const traces = [];
    for (const s of shown) {
      const c = s.curves[metric.name], i = keys.indexOf(keyOf(s)), k = metric.apart ? facets.indexOf(s.line) : 0, n = k ? k + 1 : "";
      const on = { xaxis: `x${n}`, yaxis: `y${n}`, showlegend: false };
      if (bands && c.low)
        traces.push({ ...on, x: [...c.x, ...[...c.x].reverse()], y: [...c.high, ...[...c.low].reverse()], fill: "toself", fillcolor: faint(colour(i), 0.1), line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
      traces.push({ ...on, x: c.x, y: c.y, mode: c.x.length === 1 ? "markers" : "lines", line: { color: colour(i), width: 1.8, dash: dash(i) }, name: plain(s.name), hovertemplate: `${plain(s.name)}<br>update %{x}: %{y:.4g}<extra></extra>` });
    }
    // bands of few seeds can be far wider than the curves; the axis follows the curves
    const axes = metric.apart ? panels(facets, "update", metric.label) : { xaxis: axis("update"), yaxis: axis(metric.label) };
    facets.forEach((facet, k) => {
      const ys = shown.filter((s) => !metric.apart || s.line === facet).flatMap((s) => s.curves[metric.name].y).filter((y) => y !== null);
      const low = Math.min(...ys), high = Math.max(...ys), room = 0.25 * (high - low || 1);
      axes[`yaxis${k ? k + 1 : ""}`].range = [low - room, high + room];
    });
    Plotly.react("figure-curves", traces, layout(axes), CONFIG);
    const legend = byId("curves-legend");
    legend.replaceChildren(...keys.map((key, i) => {
      const made = make("span", at < 0 ? key : `${by} ${key}`);
      made.style.setProperty("--colour", colour(i));
      return made;
    }));
  };

  const versus = (row) => `${row.judge}${row.baseline ? ` against ${row.baseline}` : ""}${row.file ? `, ${row.file}` : ""}`;
  const forest = () => {
    // one panel for each combination of judge, baseline and prompts, with a row for each setting
    const groups = [...grouped(data.forest.map((r) => ({ ...r, about: versus(r) })), "about")];
    const between = 3, total = data.forest.length + between * groups.length; // heights, in rows
    const traces = [], axes = { annotations: [], shapes: [] };
    let top = 1;
    groups.forEach(([about, unsorted], k) => {
      const n = k ? k + 1 : "", rows = [...unsorted].reverse();
      const names = rows.map((r, i) => plain(short(r)) + "\u200b".repeat(i % 7));
      top -= 1.2 / total;
      const bottom = Math.max(0, top - rows.length / total);
      axes[`xaxis${n}`] = axis(k === groups.length - 1 ? "win-rate" : "", { range: [-0.02, 1.02], anchor: `y${n}` });
      axes[`yaxis${n}`] = axis("", { type: "category", categoryorder: "array", categoryarray: names, range: [-0.7, names.length - 0.3], domain: [bottom, top], anchor: `x${n}`, tickfont: { size: narrow() ? 9 : 11 } });
      axes.annotations.push({ text: plain(`win-rate by ${about}`), showarrow: false, xref: `x${n} domain`, yref: `y${n} domain`, x: 0, y: 1, xanchor: "left", yanchor: "bottom", font: { size: 12, color: theme().ink } });
      axes.shapes.push({ type: "line", xref: `x${n}`, yref: `y${n} domain`, x0: 0.5, x1: 0.5, y0: 0, y1: 1, line: { color: theme().ink, dash: "dot", width: 1 } });
      top = bottom - (between - 1.2) / total;
      for (const [name, found] of grouped(rows.map((r, i) => ({ ...r, label: names[i] })), "line"))
        traces.push({ x: found.map((r) => r.value), y: found.map((r) => r.label), mode: "markers", name: plain(name), showlegend: false, xaxis: `x${n}`, yaxis: `y${n}`,
          marker: { color: colour(line(name)), size: 9, symbol: symbol(line(name)) }, error_x: bars(found, "low", "value", "high"),
          text: found.map((r) => plain(`${r.setting}: ${versus(r)} (${r.n} seed${r.n === 1 ? "" : "s"}${r.prompts ? `, ${r.prompts} prompts` : ""}, interval over ${r.over})`)),
          hovertemplate: "%{text}<br>%{x:.3f}<extra></extra>" });
    });
    Plotly.react("figure-forest", traces, layout({ height: Math.min(9000, 40 + 24 * total), ...axes }), CONFIG);
  };

  const displacement = () => {
    const rows = [...data.displacement].reverse();
    const names = rows.map((r) => plain(short(r)));
    // chosen and rejected stand a little above and below the middle of their row, so that their intervals can be seen
    const of = (part, title, i, shift) => ({ x: rows.map((r) => r[part]), y: rows.map((_, k) => k + shift), text: names, mode: "markers", name: title, marker: { color: colour(i), size: 9, symbol: symbol(i) }, error_x: bars(rows, `${part}_low`, part, `${part}_high`), hovertemplate: `%{text}<br>${title} %{x:.3f}<extra></extra>` });
    const withLength = rows.some((r) => r.length !== null) && !narrow();
    const traces = [of("chosen", "chosen", 0, 0.16), of("rejected", "rejected", 1, -0.16)];
    if (withLength) traces.push({ ...of("length", "tokens of an answer", 2, 0), xaxis: "x2" });
    const values = rows.flatMap((r) => [r.chosen, r.rejected]).filter((v) => v !== null);
    const low = Math.min(0, ...values), high = Math.max(0, ...values), room = 0.15 * (high - low || 1);
    Plotly.react("figure-displacement", traces, layout({ height: Math.min(9000, 130 + 26 * rows.length), legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      margin: { l: 60, r: 12, t: 40, b: 50 },
      xaxis: axis("held-out log-ratio (nats)", { domain: withLength ? [0, 0.66] : [0, 1], range: [low - room, high + room] }),
      ...(withLength ? { xaxis2: axis("tokens of an answer", { domain: [0.72, 1], anchor: "y", rangemode: "tozero" }) } : {}),
      yaxis: axis("", { tickvals: rows.map((_, k) => k), ticktext: names, zeroline: false, range: [-0.7, names.length - 0.3], tickfont: { size: narrow() ? 9 : 11 } }) }), CONFIG);
  };

  const gap = () => {
    const rows = [...data.gap].reverse(), names = [...new Set(rows.map((r) => plain(r.setting)))];
    const traces = [...grouped(data.gap, "part")].map(([part, found], i) => ({
      type: "bar", orientation: "h", x: found.map((r) => r.value), y: found.map((r) => plain(r.setting)), name: plain(part), marker: { color: colour(i) },
      hovertemplate: "%{y}<br>%{x:.4f}<extra></extra>" }));
    Plotly.react("figure-gap", traces, layout({ barmode: "relative", height: Math.min(9000, 130 + 30 * names.length), legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
      margin: { l: 60, r: 12, t: 40, b: 50 }, xaxis: axis("gap to the frontier (reward)"), yaxis: axis("", { type: "category", categoryorder: "array", categoryarray: names }) }), CONFIG);
  };

  const figures = [["figure-gap", gap], ["figure-frontier", frontier], ["figure-strength", strength], ["figure-curves", curves], ["figure-forest", forest], ["figure-displacement", displacement]];
  const draw = () => { for (const [id, drawn] of figures) if (byId(id)) drawn(); };

  // --- answers side by side, and two runs --------------------------------------------------------------------------
  const AT_A_TIME = 5;
  let shown = AT_A_TIME;
  const answers = () => {
    const { columns, prompts, baseline, judge } = data.completions;
    const wanted = byId("completions-filter").value.toLowerCase(), by = byId("completions-sort").value;
    const found = prompts.filter((row) => row.prompt.toLowerCase().includes(wanted));
    found.sort((a, b) => (by === "prompt" ? a.prompt.localeCompare(b.prompt) : (b[by] ?? -Infinity) - (a[by] ?? -Infinity)));
    const side = (title, answer) => {
      const made = make("div"), meta = [];
      made.append(make("h4", title));
      made.append(answer.text ? make("p", answer.text, "text") : make("p", "(empty)", "text empty"));
      if (answer.score !== null) meta.push(`${judge || "score"} ${answer.score.toFixed(3)}`);
      if (answer.tokens !== null) meta.push(`${answer.tokens} token${answer.tokens === 1 ? "" : "s"}`);
      if (answer.ended === false) meta.push("cut off");
      if (meta.length) made.append(make("p", meta.join(", "), "meta"));
      return made;
    };
    byId("completions-list").replaceChildren(...found.slice(0, shown).map((row) => {
      const made = make("article", undefined, "prompt"), sides = make("div", undefined, "sides"), meta = [];
      made.append(make("h3", row.prompt));
      if (row.before) sides.append(side(baseline, row.before));
      row.answers.forEach((answer, i) => { if (answer) sides.append(side(columns[i].setting, answer)); });
      if (row.change !== null) meta.push(`change ${row.change.toFixed(3)}`);
      if (row.disagreement !== null) meta.push(`disagreement ${row.disagreement.toFixed(3)}`);
      made.append(sides, make("p", meta.join(", "), "meta"));
      return made;
    }));
    const left = found.length - shown;
    byId("completions-count").textContent = `${Math.min(shown, found.length)} of ${found.length} prompts shown`;
    byId("completions-more").hidden = left <= 0;
    byId("completions-more").textContent = `Show ${Math.min(AT_A_TIME, left)} more`;
  };

  const differences = () => {
    const { keys, metrics, runs } = data.runs;
    const [one, other] = ["one", "other"].map((which) => runs[byId(`differences-${which}`).selectedIndex]);
    const table = make("table"), head = table.createTHead().insertRow(), body = table.createTBody();
    for (const name of ["", one.id, other.id, "difference"]) {
      const cell = make("th", name, name ? "number" : "");
      cell.scope = "col";
      head.append(cell);
    }
    const add = (name, ...texts) => {
      const row = body.insertRow();
      row.append(make("td", name));
      for (const text of texts) row.append(make("td", text, "number"));
    };
    keys.forEach((key, i) => { if (one.values[i] !== other.values[i]) add(key, one.values[i] ?? "(none)", other.values[i] ?? "(none)", ""); });
    const number = (value) => (value === null ? "" : value.toPrecision(5));
    metrics.forEach((name, i) => {
      const [a, b] = [one.numbers[i], other.numbers[i]];
      if (a !== null || b !== null) add(name, number(a), number(b), number(a === null || b === null ? null : b - a));
    });
    const holder = make("div", undefined, "scroll");
    holder.tabIndex = 0;
    holder.setAttribute("role", "region");
    holder.setAttribute("aria-label", "Table: what differs between two runs");
    holder.append(table);
    byId("differences-table").replaceChildren(holder);
  };

  // --- set up ------------------------------------------------------------------------------------------------------
  const choose = (id, options, chosen, changed) => {
    const select = byId(id);
    if (!select) return;
    options.forEach(([value, text]) => option(select, value, text));
    select.selectedIndex = Math.max(0, chosen);
    select.addEventListener("change", changed);
  };
  const firstOf = (found, names) => found.findIndex((m) => m.name === names.find((name) => found.some((other) => other.name === name)));
  choose("strength-metric", data.strength.map((m) => [m.name, m.label]), firstOf(data.strength, ["exact/frontier_gap", "exact/kl", "eval/kl_ref/sequence_k1", "eval/pairs/accuracy"]), strength);
  choose("curves-metric", data.curves.metrics.map((m) => [m.name, m.label]), firstOf(data.curves.metrics, ["train/logratios/margins", "train/objective/scores", "train/loss"]), curves);
  // a few settings have a colour each; of many, those with one value of the first axis share theirs
  const fewSettings = data.curves.settings.length <= COLOURS.length;
  choose("curves-axis", [...data.curves.axes.map((name) => [name, name]), ["", "setting"]], fewSettings ? data.curves.axes.length : 0, curves);
  const names = data.runs.runs.map((run) => [run.id, run.name ? `${run.name} (${run.id})` : run.id]);
  choose("differences-one", names, 0, differences);
  choose("differences-other", names, 1, differences);
  keepDrawn(draw);
  if (byId("completions-filter")) {
    const again = () => { shown = AT_A_TIME; answers(); };
    byId("completions-filter").addEventListener("input", again);
    byId("completions-sort").addEventListener("change", again);
    byId("completions-more").addEventListener("click", () => { shown += AT_A_TIME; answers(); });
    answers();
  }
  if (byId("differences-table")) differences();
})();
