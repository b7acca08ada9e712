"""Sets a report as one self-contained page: no script, no outside reference, light and dark.

Every text is escaped here: study names and model outputs are untrusted.
"""

import html
from collections.abc import Sequence
from typing import Final

from autocompress.export import figures, report_words
from autocompress.export.report import Report, Verdict
from autocompress.export.report_captions import caption

_TITLES: Final = {
    "layer_map": "What is left of each layer",
    "speedups": "Predicted and measured speed",
    "baselines": "Against simpler methods",
    "loss_history": "The search",
}

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1f2328; --soft: #59636e;
  --line: #d8dde3; --panel: #f5f7f9; --good: #006d4c; --bad: #b34700; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e8ebee; --soft: #a2abb5;
  --line: #343b43; --panel: #1d2126; --good: #4cc79a; --bad: #ff9f5a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 46rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif;
  overflow-wrap: anywhere; }
header { border-left: 6px solid var(--mark); padding: .1rem 0 .1rem 1rem; margin-bottom: 1.5rem; }
.good { --mark: var(--good); } .bad { --mark: var(--bad); }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0; } h1 b { color: var(--mark); }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .6rem; }
p { margin: .5rem 0; } .soft, figcaption { color: var(--soft); }
table { margin: 1rem 0; }
.warning { border-left: 6px solid var(--bad); padding-left: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0;
  border-bottom: 1px solid var(--line); }
.pairs th { font-weight: 500; color: var(--soft); width: 34%; }
.essentials td { font-weight: 600; } thead th { font-size: .85rem; color: var(--soft); }
.ours td { font-weight: 600; } .scroll { overflow-x: auto; } .scroll table { min-width: 34rem; }
.scroll td, .scroll th { white-space: nowrap; } .scroll table { font-size: .9rem; }
figure { margin: 0; } .scroll svg { display: block; width: 100%; min-width: 30rem; height: auto; }
figcaption { margin-top: .4rem; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: 0; }
dt { color: var(--soft); margin-top: .7rem; } dd { margin: .2rem 0 0; }
"""


def to_html(report: Report) -> str:
    """Return report.html."""
    words = report_words.headline(report)
    lead, _, rest = words.partition(": ")
    good = report.verdict is Verdict.USABLE and (report.gate is None or report.gate.passed)
    shown = figures.available(report)
    body = [
        (
            f'<header class="{"good" if good else "bad"}">'
            f"<h1><b>{_escape(lead)}:</b> {_escape(rest)}</h1>"
            f'<p class="soft">{_escape(report.model)} · study {_escape(report.study)}</p></header>'
        ),
        *(f'<p class="warning"><b>Warning:</b> {_escape(w)}</p>' for w in report.warnings),
        _pairs(report_words.essentials(report), "essentials"),
        *(_figure(report, name) for name in shown),
        "<h2>Gate: the file on disk</h2>",
        _pairs(report_words.gate_rows(report)),
        "<h2>How it was measured</h2>",
        _pairs(report_words.method_rows(report)),
        _sample(report),
        f"<h2>Load it</h2><pre>{_escape(report_words.snippet(report).rstrip())}</pre>",
        f"<h2>Repeat it</h2><pre>{_escape(report.command)}</pre>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_escape(f'{lead}: {report.study}')}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(filter(None, body))}\n</body></html>\n"
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _figure(report: Report, name: str) -> str:
    title = _TITLES[name]
    svg = figures.to_svg(figures.FIGURES[name](report), name, _escape(title))
    words = _escape(caption(report, name))
    return (
        f'<h2>{title}</h2><figure><div class="scroll">{svg}</div>'
        f"<figcaption>{words}</figcaption></figure>"
        f"{_methods(report) if name == 'baselines' else ''}"
    )


def _pairs(rows: Sequence[tuple[str, str]], extra: str = "") -> str:
    cells = (f"<tr><th>{_escape(name)}</th><td>{_escape(text)}</td></tr>" for name, text in rows)
    return f'<table class="pairs {extra}">{"".join(cells)}</table>'


def _methods(report: Report) -> str:
    heads = ("Method", "KL ± 95 %", "Perplexity", "KL minus ours", "Speed, predicted")
    lines = []
    for n, row in enumerate(report_words.baseline_rows(report)):
        cells = "".join(f"<td>{_escape(text)}</td>" for text in row)
        lines.append(f'<tr class="{"ours" if n == 0 else ""}">{cells}</tr>')
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _sample(report: Report) -> str:
    if report.sample is None:
        return ""
    named = (
        ("Prompt", report.sample.prompt),
        ("Dense", report.sample.dense),
        ("Compressed", report.sample.compressed),
    )
    items = (f"<dt>{name}</dt><dd><pre>{_escape(text)}</pre></dd>" for name, text in named)
    return f"<h2>Sample</h2><dl>{''.join(items)}</dl>"
