"""Sets a report as one self-contained page.

Every text is escaped here: study names and model outputs are untrusted.
"""

from typing import Final

from autocompress.export import figures, report_words
from autocompress.export.page import escape, figure, page, pairs, table
from autocompress.export.report import Report, Verdict
from autocompress.export.report_captions import caption

_TITLES: Final = {
    "layer_map": "What is left of each layer",
    "speedups": "Predicted and measured speed",
    "baselines": "Against simpler methods",
    "loss_history": "The search",
}


def to_html(report: Report) -> str:
    """Return report.html."""
    words = report_words.headline(report)
    lead, _, rest = words.partition(": ")
    good = report.verdict is Verdict.USABLE and (report.gate is None or report.gate.passed)
    shown = figures.available(report)
    body = [
        (
            f'<header class="{"good" if good else "bad"}">'
            f"<h1><b>{escape(lead)}:</b> {escape(rest)}</h1>"
            f'<p class="soft">{escape(report.model)} · study {escape(report.study)}</p></header>'
        ),
        *(f'<p class="warning"><b>Warning:</b> {escape(w)}</p>' for w in report.warnings),
        pairs(report_words.essentials(report), "essentials"),
        *(_figure(report, name) for name in shown),
        "<h2>Gate: the file on disk</h2>",
        pairs(report_words.gate_rows(report)),
        "<h2>How it was measured</h2>",
        pairs(report_words.method_rows(report)),
        _sample(report),
        f"<h2>Load it</h2><pre>{escape(report_words.snippet(report).rstrip())}</pre>",
        f"<h2>Repeat it</h2><pre>{escape(report.command)}</pre>",
    ]
    return page(f"{lead}: {report.study}", body)


def _figure(report: Report, name: str) -> str:
    title = _TITLES[name]
    svg = figures.to_svg(figures.FIGURES[name](report), name, escape(title))
    methods = _methods(report) if name == "baselines" else ""
    return figure(title, svg, caption(report, name)) + methods


def _methods(report: Report) -> str:
    heads = ("Method", "KL ± 95 %", "Perplexity", "KL minus ours", "Speed, predicted")
    return table(heads, report_words.baseline_rows(report), marked=0)


def _sample(report: Report) -> str:
    if report.sample is None:
        return ""
    named = (
        ("Prompt", report.sample.prompt),
        ("Dense", report.sample.dense),
        ("Compressed", report.sample.compressed),
    )
    items = (f"<dt>{name}</dt><dd><pre>{escape(text)}</pre></dd>" for name, text in named)
    return f"<h2>Sample</h2><dl>{''.join(items)}</dl>"
