"""The frame of every page: self-contained, no script, no outside reference, light and dark."""

import html
from collections.abc import Iterable, Sequence
from typing import Final

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
.scroll td { white-space: nowrap; } .scroll table { font-size: .85rem; }
th:last-child, td:last-child { padding-right: 0; }
figure { margin: 0; } .scroll svg { display: block; width: 100%; min-width: 30rem; height: auto; }
figcaption { margin-top: .4rem; }
pre { background: var(--panel); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; margin: 0; }
dt { color: var(--soft); margin-top: .7rem; } dd { margin: .2rem 0 0; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; the title is escaped, the body is markup."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(filter(None, body))}\n</body></html>\n"
    )


def escape(text: str) -> str:
    """Return text that no browser reads as markup."""
    return html.escape(text, quote=True)


def figure(title: str, svg: str, caption: str) -> str:
    """Return a figure under its title; the caption is text."""
    return (
        f'<h2>{escape(title)}</h2><figure><div class="scroll">{svg}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def pairs(rows: Sequence[tuple[str, str]], extra: str = "") -> str:
    """Return a table of names and texts.

    Args:
        extra: One more CSS class.
    """
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<table class="pairs {extra}">{"".join(cells)}</table>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    """Return a table under heads, that scrolls where it is too wide.

    Args:
        marked: The row that stands out.
    """
    lines = []
    for n, row in enumerate(rows):
        cells = "".join(f"<td>{escape(text)}</td>" for text in row)
        lines.append(f'<tr class="{"ours" if n == marked else ""}">{cells}</tr>')
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
