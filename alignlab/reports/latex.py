"""The table of settings for a paper: LaTeX with booktabs, and CSV with all digits."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from alignlab.inert import formula_free
from alignlab.reports.collect import Collected
from alignlab.reports.page.content import Table, settings_table

_ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "‖": r"$\|$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
_NUMBER = re.compile(r"(?<![\w.])-(?=\d)")


def paper_tables(found: Collected) -> list[tuple[str, Table]]:
    """(name of the data set, its settings with the columns that a paper has room for: axes, seeds, main numbers)."""
    return [(name, _narrowed(settings_table(found, settings))) for name, settings in found.settings]


def latex(tables: Sequence[tuple[str, Table]], caption: str = "") -> str:
    """LaTeX tables that need \\usepackage{booktabs}. Numbers are aligned right, texts left."""
    return "\n\n".join(_latex(table, f"{caption} {name}".strip()) for name, table in tables) + "\n"


def as_csv(tables: Sequence[tuple[str, Table]]) -> str:
    """A CSV table, in which no text is a formula of a spreadsheet.

    A column with intervals becomes three: value, low, high. Several data sets have a column `set`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for number, (name, table) in enumerate(tables):
        wide = [any(row[i].low is not None for row in table.rows) for i in range(len(table.header))]
        first = ["set"] if len(tables) > 1 else []
        header = [h for i, n in enumerate(table.header) for h in ([n, f"{n} low", f"{n} high"] if wide[i] else [n])]
        if number == 0 or len(tables) > 1:
            writer.writerow(map(formula_free, [*first, *header]))
        for row in table.rows:
            cells: list[object] = []
            for cell, is_wide in zip(row, wide, strict=True):
                value = cell.text if cell.value is None else cell.value
                cells += ["" if v is None else v for v in (value, cell.low, cell.high)] if is_wide else [value]
            writer.writerow(map(formula_free, [*([name] if first else []), *cells]))
    return out.getvalue()


def _narrowed(table: Table) -> Table:
    """The table without most metrics: the columns up to the comparison, and the main metrics."""
    known = table.header.index("seeds")
    compared = [i for i, name in enumerate(table.header) if name == "tied with it"]
    last = compared[0] if compared else known + 1
    kept = [
        i for i, name in enumerate(table.header) if i <= last or (name not in table.minor and name != "seeds to add")
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.name, [table.header[i] for i in kept], rows, table.numeric)


def _latex(table: Table, caption: str) -> str:
    columns = "".join("r" if name in table.numeric else "l" for name in table.header)
    lines = [
        r"\begin{table}", r"\centering", f"\\begin{{tabular}}{{{columns}}}", r"\toprule",
        " & ".join(map(escaped, table.header)) + r" \\", r"\midrule",
        *(" & ".join(escaped(cell.text) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule", r"\end{tabular}", *([f"\\caption{{{escaped(caption)}}}"] if caption else []), r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Text as LaTeX shows it. The minus of a negative number is a minus, not a hyphen."""
    return "".join(_ESCAPES.get(sign, sign) for sign in _NUMBER.sub("−", text))
