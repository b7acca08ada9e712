"""The flags of `decode`."""

import argparse
from collections.abc import Mapping

from autocompress.cli.naming import model_name
from autocompress.cli.service_flags import Add, Command, Parser

GIVEN = (
    "model",
    "draft",
    "against",
    "tasks",
    "objective",
    "quality_drop",
    "limits",
    "tune",
    "fix",
    "strategy",
    "trials",
    "items",
    "max_tokens",
    "budget",
    "no_pruning",
    "address",
    "at_once",
    "timing_processes",
    "device",
    "dtype",
    "seed",
    "trust_remote_code",
    "allow_python",
)
"""What `decode_asked` reads, by the names of the flags."""


def add_decode(
    commands: "argparse._SubParsersAction[Parser]",
    run: Mapping[str, Command],
    add_common: Add,
) -> None:
    """Add `decode`.

    Args:
        add_common: Adds where studies are kept, where the output goes, and `--json`.
    """
    decode = commands.add_parser(
        "decode", help="search how a model is best decoded, drafts and sampling and cache"
    )
    decode.add_argument("model", metavar="MODEL", help="folder or hub name of the model")
    decode.add_argument(
        "--tasks",
        metavar="PATH",
        help="JSON Lines of prompts and references, a folder of such, or lm-eval:NAME (default: "
        "lines of code to complete, from Python's own library)",
    )
    decode.add_argument(
        "--draft", metavar="MODEL", help="a smaller model that may propose tokens for it"
    )
    decode.add_argument(
        "--against",
        metavar="MODEL",
        help="whose quality counts, as the dense model of a compressed one (default: its own)",
    )
    decode.add_argument(
        "--objective",
        metavar="quality-per-second",
        help="one or two of: quality, seconds (of an answer), tokens-per-second, first-token, "
        "quality-per-second, cost (tokens a correct answer), memory (weights and KV cache)",
    )
    decode.add_argument(
        "--quality-drop",
        metavar="0.02",
        help="by how much the mean score may lie lower, with 95 %% confidence",
    )
    decode.add_argument(
        "--limits",
        metavar="LIST",
        help="of objectives, as seconds=500ms,first-token=50ms,memory=2GB,tokens-per-second=100: "
        "the least of a quality or a rate, the most of all else",
    )
    decode.add_argument(
        "--tune",
        metavar="LIST",
        help="speculation, sampling, best-of, beams, cache, batch, length, or single parameters "
        "(default: all but length)",
    )
    decode.add_argument(
        "--fix", metavar="stop=line,...", help="values of parameters, tuned and untuned alike"
    )
    decode.add_argument("--strategy", help="tpe (default), random or grid")
    decode.add_argument("--trials", metavar="40", help="decodings that are drawn")
    decode.add_argument("--items", metavar="64", help="of the tasks that a search reads at most")
    decode.add_argument("--max-tokens", metavar="20k", help="that all candidates may generate")
    decode.add_argument("--budget", metavar="30m", help="time for the search")
    decode.add_argument(
        "--no-pruning", action="store_true", help="have every decoding answer all items"
    )
    decode.add_argument(
        "--allow-python",
        action="store_true",
        help="run Python that tasks or the model's answers hold, in a limited process",
    )
    decode.add_argument("--at-once", metavar="1", help="decodings at a time: more blur the times")
    decode.add_argument(
        "--timing-processes",
        metavar="4",
        help="that share the report's items: intervals of times hold what processes differ by",
    )
    decode.add_argument("--address", help="a running Ray cluster")
    decode.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    decode.add_argument("--dtype", help="auto (the checkpoint's), bfloat16 or float32")
    decode.add_argument("--seed", help="of everything random")
    decode.add_argument(
        "--trust-remote-code", action="store_true", help="run code that a model's folder brings"
    )
    decode.add_argument(
        "--study", help="its name (default: decode-MODEL-seedN); one that is there goes on"
    )
    add_common(decode)
    decode.set_defaults(command=run["decode"])


def default_study(model: str, seed: int) -> str:
    """Return the name of a study that was given none."""
    return f"decode-{model_name(model)}-seed{seed}"
