"""Sets a report as Markdown: the same words as the page, without the figures."""

import re
from collections.abc import Sequence

from autocompress.export import report_words
from autocompress.export.figures import available
from autocompress.export.report import Report
from autocompress.export.report_captions import caption


def to_markdown(report: Report) -> str:
    """Return report.md; the first line is the verdict."""
    blocks = [f"# {_inline(report_words.headline(report))}"]
    blocks.append(f"Study {_inline(report.study)}, model {_inline(report.model)}.")
    blocks += [f"**Warning:** {_inline(warning)}" for warning in report.warnings]
    blocks.append(_table(("", "What was got"), report_words.essentials(report)))
    shown = [_inline(caption(report, name)) for name in available(report)]
    if shown:
        blocks.append("## In short\n\n" + "\n".join(f"- {words}" for words in shown))
        blocks.append("The figures are in `report.html`.")
    heads = ("Method", "KL ± 95 %", "Perplexity", "KL minus ours", "Speed, predicted")
    blocks.append(
        f"## Against simpler methods\n\n{_table(heads, report_words.baseline_rows(report))}"
    )
    blocks.append(f"## Gate\n\n{_table(('Check', 'Result'), report_words.gate_rows(report))}")
    blocks.append(
        f"## How it was measured\n\n{_table(('', 'Value'), report_words.method_rows(report))}"
    )
    if report.sample is not None:
        sample = report.sample
        blocks.append("## Sample")
        for name, text in (
            ("Prompt", sample.prompt),
            ("Dense", sample.dense),
            ("Compressed", sample.compressed),
        ):
            blocks.append(f"{name}:\n\n{_fence(text)}")
    blocks.append(f"## Load it\n\n{_fence(report_words.snippet(report), 'python')}")
    blocks.append(f"## Repeat it\n\n{_fence(report.command, 'sh')}")
    return "\n\n".join(blocks) + "\n"


def _inline(text: str) -> str:
    """Escape what Markdown or HTML would read as markup; names and texts are untrusted."""
    return re.sub(r"([\\`*_<>|&]|\](?=[(\[]))", r"\\\1", " ".join(text.split()))


def _fence(text: str, language: str = "text") -> str:
    """Return a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    lines += [f"| {' | '.join(map(_inline, row))} |" for row in rows]
    return "\n".join(lines)
