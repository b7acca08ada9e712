"""The page docs/speculation.md, from a run of benchmarks/speculation.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.spaces.decoding import to_text
from benchmarks.markdown_table import table

LOOKUP = "lookup"


def write(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the page of results by the names of their files."""
    head = "# Speculative decoding by a draft that a search found"
    parts = [part for name, result in results.items() for part in sections(name, result)]
    path.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")


def sections(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return what was timed, what came out, and whether answers stay the same."""
    flags = f"--sizes {' '.join(result['searches'])} --draws {result['test']['draws']}"
    flags += f" --prompts {len(result['rows'])} --dtype {result['dtype']}"
    command = "python -m benchmarks.speculation --output benchmarks/results"
    return [
        f"## In {result['dtype']}",
        f"`{command}/{name} {flags}`",
        _about(result),
        _drafts(result["searches"]),
        "### Speed",
        _speed(result),
        "### The same answers",
        _same(result),
        "### The same distribution",
        _distribution(result["test"]),
    ]


def _about(result: Mapping[str, Any]) -> str:
    rates = result["summary"]["tokens_a_second"]
    loop = result["summary"]["plain_over_generate"]
    return (
        f"The shipped reference model (12 layers, {result['dtype']}) answers "
        f"{len(result['rows'])} prompts of 128 tokens, sequences of held-out report text, with 64 "
        "tokens each; all ways answer a prompt in turn, in one process, and ratios are taken "
        "within prompts: medians, with bootstrap intervals of 95 %. Settings of lookup and of "
        f"each draft were picked on other prompts. {result['hardware']}.\n\n"
        f"Plain decoding gave {rates['generate']:.1f} tokens a second by transformers' `generate` "
        f"and {rates['plain']:.1f} by our loop without a proposer, which is {_spread(loop)} as "
        "fast. Speedups below are over the latter, the same code without a draft, and beside it "
        "over `generate`."
    )


def _drafts(searches: Mapping[str, Any]) -> str:
    head = ["draft", "`--space depth --whole-layers`", "KL from dense", "parameters"]
    body = [
        [
            name,
            f"`--target-params {name} --budget {own['budget']} --recover {own['recover']}`",
            f"{own['kl']:.3f}",
            f"{own['parameters']:,}",
        ]
        for name, own in searches.items()
    ]
    return table(head, body)


def _speed(result: Mapping[str, Any]) -> str:
    greedy, sampled = result["summary"]["greedy"], result["summary"]["sampled"]
    head = [
        "proposer",
        "settings",
        "greedy",
        "over `generate`",
        "held",
        "drawn at temperature 0.8",
        "held",
    ]
    body = [
        [
            _named(name),
            f"`{to_text(result['settings'][name]['decoding'])}`",
            _spread(own["speedup"]),
            _spread(own["speedup_over_generate"]),
            f"{own['acceptance']:.0%}",
            _spread(sampled[name]["speedup"]),
            f"{sampled[name]['acceptance']:.0%}",
        ]
        for name, own in greedy.items()
    ]
    return table(head, body)


def _same(result: Mapping[str, Any]) -> str:
    found = {
        "transformers' `generate`": result["summary"]["differences"],
        **{_named(name): own["differences"] for name, own in result["summary"]["greedy"].items()},
    }
    body = [
        [name, f"{own['identical']} of {own['of']}", f"{own['widest_margin']:.1e}"]
        for name, own in found.items()
    ]
    return (
        "Greedy answers against those of our loop without a proposer, token for token. Where one "
        "parts from it, the margin is by how much the model's best logit led there: in "
        f"{result['dtype']}, two closer than {result['margin']:g} may change places with the "
        "order of sums.\n\n"
        + table(["against", "identical", "widest margin where one parts"], body)
    )


def _distribution(test: Mapping[str, Any]) -> str:
    body = [
        [
            "no proposer, other seeds" if name == "alone" else _named(name),
            f"{own['statistic']:.1f}",
            str(own["freedom"]),
            f"{own['p']:.3f}",
        ]
        for name, own in test["ways"].items()
    ]
    return (
        f"The first {test['tokens']} tokens of {test['draws']:,} answers drawn at temperature "
        "0.8, by each way and by our loop without a proposer: a chi-square test of two samples "
        "over the joint frequencies, summed over four prompts. The exact test, against the "
        "enumerated distribution of a small model, is among the project's tests.\n\n"
        + table(["against", "chi-square", "degrees of freedom", "p"], body)
    )


def _named(name: str) -> str:
    if name == LOOKUP:
        return name
    found, _, draft = name.rpartition(" ")
    return f"{found} the draft of {draft}" if found else f"draft of {draft}"


def _spread(own: Mapping[str, Any]) -> str:
    low, high = own["interval"]
    return f"{own['median']:.2f}x [{low:.2f}, {high:.2f}]"
