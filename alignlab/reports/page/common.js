"use strict";
// What the scripts of all pages share: colours, axes, and tables that can be sorted, filtered and saved. All texts are
// set as text, never as markup.
const alignlab = (() => {
  const data = JSON.parse(document.getElementById("figures").textContent);
  // Okabe and Ito's colours, which people with any colour vision can tell apart; black and yellow are left out, because
  // one of them can't be seen on a dark page and the other on a light one.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#8c8c8c"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "star"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  // The buttons lie over the figure, so they appear only under a pointer that can hover: not on phones.
  const buttons = window.matchMedia("(hover: hover)").matches ? "hover" : false;
  const CONFIG = {
    responsive: true, displaylogo: false, displayModeBar: buttons, modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
  const byId = (id) => document.getElementById(id);
  const colour = (i) => COLOURS[i % COLOURS.length];
  const dash = (i) => DASHES[Math.floor(i / COLOURS.length) % DASHES.length];
  const symbol = (i) => SYMBOLS[(i + Math.floor(i / COLOURS.length)) % SYMBOLS.length];
  const faint = (hex, alpha) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${alpha})`;
  };
  // plotly reads some tags in texts as markup, and a zero-width joiner after "<" stops that
  const plain = (text) => String(text).replace(/</g, "<\u200d");
  const make = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const option = (select, value, text) => {
    const made = make("option", text);
    made.value = value;
    select.append(made);
  };

  // --- figures -----------------------------------------------------------------------------------------------------
  const PAPER = 690; // width of a figure on paper (CSS pixels); A4 has 718 between its margins
  let printing = false;
  const theme = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    return printing ? { ink: "#000", grid: "#ddd", line: "#999" } : { ink: of("--ink"), grid: of("--grid"), line: of("--line") };
  };
  const axis = (title, more) => {
    const { ink, grid, line: border } = theme();
    return { title: { text: plain(title), font: { size: 13 } }, color: ink, gridcolor: grid, linecolor: border, zerolinecolor: border, automargin: true, ...more };
  };
  const narrow = () => !printing && window.innerWidth < 640;
  const layout = (more) => ({
    font: { family: "system-ui, sans-serif", size: 12, color: theme().ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 440, hovermode: "closest",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: theme().ink },
    margin: { l: 60, r: 12, t: 16, b: 50 },
    ...(printing ? { width: PAPER } : {}),
    legend: narrow() ? { orientation: "h", y: -0.22 } : { orientation: "v" }, ...more,
  });
  const bars = (rows, low, value, high) => ({
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: rows.map((r) => (r[high] === null ? 0 : r[high] - r[value])),
    arrayminus: rows.map((r) => (r[low] === null ? 0 : r[value] - r[low])),
  });
  const grouped = (rows, key) => {
    const groups = new Map();
    for (const row of rows) groups.set(row[key], [...(groups.get(row[key]) || []), row]);
    return groups;
  };
  // Axes of small multiples: one for each of `count` panels, at most `columns` beside each other.
  const panels = (names, xTitle, yTitle, xMore) => {
    const columns = narrow() ? 1 : Math.min(3, names.length);
    const rows = Math.ceil(names.length / columns);
    const found = { grid: { rows, columns, pattern: "independent", xgap: 0.16, ygap: 0.28 }, height: Math.max(440, 300 * rows), annotations: [] };
    names.forEach((name, i) => {
      const n = i ? i + 1 : "";
      found[`xaxis${n}`] = axis(xTitle, xMore);
      found[`yaxis${n}`] = axis(i % columns ? "" : yTitle);
      found.annotations.push({ text: plain(name), showarrow: false, xref: `x${n} domain`, yref: `y${n} domain`, x: 0.5, y: 1.1, font: { size: 12, color: theme().ink } });
    });
    return found;
  };

  // Draws now, and again when the colours or the width of the page change.
  const keepDrawn = (draw) => {
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    matchMedia("(max-width: 639px)").addEventListener("change", draw);
    addEventListener("beforeprint", () => { printing = true; draw(); });
    addEventListener("afterprint", () => { printing = false; draw(); });
  };

  // --- tables ------------------------------------------------------------------------------------------------------
  const sortBy = (table, column, header) => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[column];
      return { row, number: cell.dataset.value === undefined ? NaN : Number(cell.dataset.value), text: cell.textContent };
    });
    const compare = (a, b) => {
      if (!a.text !== !b.text) return a.text ? -1 : 1; // empty cells stay at the end
      const both = !Number.isNaN(a.number) && !Number.isNaN(b.number);
      return (up ? 1 : -1) * (both ? a.number - b.number : a.text.localeCompare(b.text));
    };
    body.append(...keyed.sort(compare).map((k) => k.row));
  };
  const quoted = (text) => {
    const safe = /^[=+@\t\r]|^-(?![\d.])/.test(text) ? `'${text}` : text; // a spreadsheet would run it as a formula
    return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  // Numbers with all their digits. A column with intervals becomes three: value, low and high.
  const csvOf = (table) => {
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    const wide = heads.map((_, i) => rows.some((row) => row.cells[i].dataset.low !== undefined));
    const lines = [heads.flatMap((name, i) => (wide[i] ? [name, `${name} low`, `${name} high`] : [name]))];
    for (const row of rows)
      lines.push([...row.cells].flatMap((cell, i) => (wide[i] ? [cell.dataset.value ?? "", cell.dataset.low ?? "", cell.dataset.high ?? ""] : [cell.dataset.value ?? cell.textContent])));
    return lines.map((cells) => cells.map(quoted).join(",")).join("\n") + "\n";
  };
  // A number is looked for as the whole value of a cell, because "0.1" is also a part of "0.188".
  const holds = (cell, word) => (Number.isNaN(Number(word)) ? cell.includes(word) : Number(cell.split(" ")[0]) === Number(word) && cell !== "");
  const download = (text, name) => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const equip = (holder) => {
    const table = holder.querySelector("table"), name = holder.dataset.tools;
    [...table.tHead.rows[0].cells].forEach((header, i) => {
      const button = make("button", header.textContent);
      button.type = "button";
      button.addEventListener("click", () => sortBy(table, i, header));
      header.replaceChildren(button);
    });
    const tools = make("div", undefined, "tools"), label = make("label", "Show rows that contain "), filter = make("input"), csv = make("button", "Save as CSV");
    filter.type = "search";
    filter.setAttribute("aria-label", `Filter the table: ${name}`);
    csv.type = "button";
    csv.setAttribute("aria-label", `Save the table as CSV: ${name}`);
    const count = make("span", "", "small");
    count.setAttribute("aria-live", "polite");
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase().split(/\s+/).filter(Boolean), rows = [...table.tBodies[0].rows];
      for (const row of rows) row.hidden = !wanted.every((word) => [...row.cells].some((cell) => holds(cell.textContent.toLowerCase(), word)));
      count.textContent = wanted.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
    });
    csv.addEventListener("click", () => download(csvOf(table), `${name.replace(/\W+/g, "_")}.csv`));
    label.append(filter);
    tools.append(label, csv, count);
    holder.prepend(tools);
  };
  document.querySelectorAll("[data-tools]").forEach(equip);
  return { data, COLOURS, CONFIG, byId, colour, dash, symbol, faint, plain, make, option, theme, axis, narrow, layout, bars, grouped, panels, keepDrawn };
})();
