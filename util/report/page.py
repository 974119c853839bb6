"""The page: one HTML file that needs no other and asks nobody for anything."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from util.report.page_style import SCRIPT, STYLE
from util.report.pictures import common_axis, differing, marks, pictures
from util.report.run import MAX_BAD_IMAGES, Run
from util.report.summary import history, made_at, summary, warnings_of
from util.report.svg import COLORS, LEFT, PLOT_HEIGHT, PLOT_WIDTH, TOP, WIDTH, draw, escape

GENERATOR = '<meta name="generator" content="python -m util.report">'  # a file with it may be written over
MAX_ROWS = 2000  # of all tables of epochs together
HISTORY = ("started", "how", "where", "ran for", "saves", "ended")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """Returns a table; the first cell of a row is its heading."""
    lines = [f'<div class="scroll"><table class="{kind}">' if kind else '<div class="scroll"><table>']
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines.append(f"<thead><tr>{cells}</tr></thead>\n<tbody>")
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def report_page(runs: Sequence[Run], *, now: datetime) -> str:
    """Returns the report about runs, at least one, as HTML. now: when it is made, with a zone."""
    title = f"Training: {runs[0].name}" if len(runs) == 1 else f"Training: {len(runs)} runs"
    script = (
        f"const WIDTH = {WIDTH}, LEFT = {LEFT}, TOP = {TOP}, PLOT_WIDTH = {PLOT_WIDTH}, PLOT_HEIGHT = {PLOT_HEIGHT};"
    )
    script = f"{script}\n{SCRIPT}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        GENERATOR,
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">As of {escape(made_at(now))}. Epochs are counted from 0, as in the log.</p>',
        *_states(runs),
        _warnings(runs),
        "<h2>Summary</h2>",
        table(["", *_headings(runs)], summary(runs)),
        *_pictures(runs),
        *_history(runs),
        *_rejected(runs),
        *_settings(runs),
        *_epochs(runs),
        f"<script>{script}</script>",
        "</body>",
        "</html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _policy(script: str) -> str:
    """Returns the Content-Security-Policy: this page's own style and script, nothing else, from nowhere."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {source(STYLE)}; script-src {source(script)}; base-uri 'none'; "
        "form-action 'none'"
    )


def _headings(runs: Sequence[Run]) -> list[str]:
    """Returns a heading a run, with the number that its curves bear."""
    return [run.name if len(runs) == 1 else f"{i + 1} {run.name}" for i, run in enumerate(runs)]


def _states(runs: Sequence[Run]) -> list[str]:
    lines = []
    for heading, run in zip(_headings(runs), runs, strict=True):
        kind, text = run.state()
        lines.append(f'<p class="state {kind}">{escape(heading)}: {escape(text)}</p>')
    return lines


def _warnings(runs: Sequence[Run]) -> str:
    found = [(heading, text) for heading, run in zip(_headings(runs), runs, strict=True) for text in warnings_of(run)]
    if not found:
        return ""
    items = [f"<li>{escape(text if len(runs) == 1 else f'{heading}: {text}')}</li>" for heading, text in found]
    return "\n".join(['<div class="warnings">', "<p>Needs a look:</p>", "<ul>", *items, "</ul>", "</div>"])


def _pictures(runs: Sequence[Run]) -> list[str]:
    names, x_axis, found = [run.name for run in runs], common_axis(runs), marks(runs)
    drawn = [(p, svg) for p in pictures(runs) if (svg := draw(p, names=names, x_axis=x_axis, marks=found))]
    if not drawn:
        return ["<h2>Curves</h2>", "<p>Nothing to draw yet: the logs have no number.</p>"]
    figures = [
        f'<figure><figcaption>{escape(p.title)}</figcaption>\n{svg}\n<p class="readout"></p></figure>'
        for p, svg in drawn
    ]
    note = (
        "A solid line is the weights, a dashed one their average (EMA), a faint one single lines of the log. A dotted "
        "vertical line is a restart, a red one a failure, a red cross at the bottom a number that is not finite; where "
        "there is no number the curve has a gap."
    )
    return [
        "<h2>Curves</h2>",
        f'<p class="note">{note}</p>',
        *_legend(runs),
        '<div class="pictures">',
        *figures,
        "</div>",
    ]


def _legend(runs: Sequence[Run]) -> list[str]:
    if len(runs) == 1:
        return []
    lines = ['<ul class="legend">']
    for i, heading in enumerate(_headings(runs)):
        sample = f'<svg viewBox="0 0 36 12" aria-hidden="true"><path class="curve run{i % COLORS}" d="M2,6 h32"/></svg>'
        lines.append(
            f'<li><label><input type="checkbox" value="{i}" checked autocomplete="off"> {sample} {escape(heading)}'
            "</label></li>"
        )
    return [*lines, "</ul>"]


def _with_name(runs: Sequence[Run], number: int, lines: list[str]) -> list[str]:
    return lines if len(runs) == 1 else [f"<h3>{escape(_headings(runs)[number])}</h3>", *lines]


def _history(runs: Sequence[Run]) -> list[str]:
    parts: list[str] = []
    for i, run in enumerate(runs):
        if run.sessions:
            parts += _with_name(runs, i, [table(HISTORY, history(run))])
    return ["<h2>Starts and ends</h2>", *parts] if parts else []


def _rejected(runs: Sequence[Run]) -> list[str]:
    parts: list[str] = []
    limit = max(1, MAX_BAD_IMAGES // len(runs))
    for i, run in enumerate(runs):
        if not run.num_bad_images:
            continue
        rows = run.bad_images[:limit]
        first = f", the first {len(rows):,} of them" if len(rows) < run.num_bad_images else ""
        head = f"<summary>{run.num_bad_images:,} {'file' if run.num_bad_images == 1 else 'files'}{first}</summary>"
        parts += _with_name(runs, i, ["<details open>" + head, table(("file", "reason"), rows), "</details>"])
    return ["<h2>Rejected files</h2>", *parts] if parts else []


def _settings(runs: Sequence[Run]) -> list[str]:
    different, same = differing(runs)
    if not different and not same:
        return []
    parts = ["<h2>Settings</h2>"]
    if len(runs) > 1:
        words = f"{len(different)} differ:" if different else "None differ."
        parts.append(f"<p>{words}</p>")
    if different:
        parts.append(table(["setting", *_headings(runs)], different))
    if same:
        head = f"<summary>{'all' if len(runs) == 1 else 'the other'} {len(same)} settings</summary>"
        parts += [f"<details>{head}", table(["setting", *_headings(runs)], same), "</details>"]
    return parts


def _epochs(runs: Sequence[Run]) -> list[str]:
    parts: list[str] = []
    limit = max(1, MAX_ROWS // len(runs))
    for i, run in enumerate(runs):
        found = run.epochs
        if not len(found.epochs):
            continue
        columns = list(found.columns)
        first = max(0, len(found.epochs) - limit)
        rows = [
            [str(found.epochs[row]), *(_cell(found.columns[name][row]) for name in columns)]
            for row in range(first, len(found.epochs))
        ]
        left_out = f", the last {limit:,}" if first else ""
        head = f"<summary>{len(found.epochs):,} epochs{left_out}</summary>"
        lines = ["<details>" + head, table(["epoch", *columns], rows, kind="numbers"), "</details>"]
        parts += _with_name(runs, i, lines)
    return ["<h2>Each epoch</h2>", *parts] if parts else []


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.6g}"
