"""Tells on the terminal how a search goes: in lines, as JSON Lines or as progress bars."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NoReturn

from tqdm import tqdm

from autocompress.pipeline.observer import Figure, Values


class Lines:
    """Tells a search in plain lines, or as JSON Lines, every ten seconds for mere progress.

    JSON has the time and the study's name in each.
    """

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._study: dict[str, str] = {}
        self._stage = ""
        self._last = 0.0

    def stage(self, name: str) -> None:
        """Print that a stage begins."""
        self._stage = name
        self._print("stage", {"stage": name}, f"{name} ...")

    def advance(self, done: int, total: int) -> None:
        """Print how far the stage has come, every ten seconds."""
        now = time.monotonic()
        if now - self._last >= 10 or (done == total and self._as_json):
            self._last = now
            values: Values = {"stage": self._stage, "done": done, "total": total}
            self._print("progress", values, f"{self._stage} {done}/{total}")

    def tell(self, kind: str, values: Values) -> None:
        """Print what happened."""
        if kind == "study":
            self._study = {"study": str(values["study"])}
        self._print(kind, values, _told(kind, values))

    def end(self) -> None:
        """Nothing is left open."""

    def _print(self, kind: str, values: Values, text: str) -> None:
        if self._as_json:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            print(json.dumps({"at": at, "event": kind, **self._study, **values}), flush=True)
        elif text:
            print(text, flush=True)


class Bar:
    """Draws a search as one progress bar a stage, on a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None
        self._name = ""
        self._steady = False

    def stage(self, name: str) -> None:
        """Begin a new bar."""
        self.end()
        self._name = name
        self._steady = name.startswith("search")
        self._bar = tqdm(
            desc=name,
            total=0,
            leave=True,
            bar_format="{desc:<34} {bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
        )

    def advance(self, done: int, total: int) -> None:
        """Move the bar; a search moves by generations, told by `tell`."""
        if self._bar is not None and not self._steady:
            self._bar.total = total
            self._bar.n = done
            self._bar.refresh()

    def tell(self, kind: str, values: Values) -> None:
        """Show the figures beside the bar, or print them above it."""
        if kind == "generation" and self._bar is not None:
            self._bar.n = _count(values["generation"])
            self._bar.total = max(_count(values["generations"]), self._bar.n)
            self._bar.set_postfix_str(
                f"KL {values['loss']:.4f}, {_predicted(values)}{values['tokens']:,} tokens"
            )
        elif text := _told(kind, values):
            tqdm.write(text)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def make_observer(as_json: bool) -> Bar | Lines:
    """Return a bar for a terminal, lines for all else."""
    return Bar() if sys.stderr.isatty() and not as_json else Lines(as_json)


def _told(kind: str, values: Values) -> str:
    """Return an event in words."""
    templates = {
        "study": "study {study} of {model}",
        "warning": "Warning: {warning}",
        "waiting": "waiting for {what}",
        "latency": "dense {dense_milliseconds:.1f} ms, predictor error {mape:.1%} (measuring "
        "twice differs by {repeat_error:.1%}), fastest {fastest:.2f}x predicted",
        "other profile": "the parent's latency table is not taken over: {changed}",
        "strayed profile": "going on with a latency table measured with {changed}",
        "roofline": "dense {dense_milliseconds:.3g} ms, fastest {fastest:.2f}x, both predicted "
        "for {hardware}: nothing is timed",
        "generation": "generation {generation}: KL {loss:.4f}, {predicted}{tokens:,} tokens, "
        "{seconds:.0f} s",
        "not recovered": "trained on {tokens:,} tokens in {seconds:.0f} s, and nothing came back: "
        "the winner stays as it was found",
        "recovered": "trained on {tokens:,} tokens in {seconds:.0f} s: KL {before:.4f} before, "
        "{after:.4f} after",
        "gathering": "reading the dense model's inputs and gradients",
        "metric": "best of {evaluations:,}: {expression} (mean log KL {loss:.4f})",
        "trial": "{study}: {outcome}",
        "measured": "measured {speedup:.3f}x [{low:.3f}, {high:.3f}] end to end{target}",
        "workers": "{busy}",
        "memory correction": "serving the winner holds {measured:,} bytes: searching on for "
        "{target_used:,.0f}",
        "given back": "speed given back, to {aim:.3f}x predicted: KL {loss:.4f}",
        "correction": "the winner measured {measured:.3f}x: searching on for {target_used:.3f}x",
    }
    told = dict(values) | {"predicted": _predicted(values)}
    if kind == "workers":
        told["busy"] = _busy(values["workers"])
    if kind == "measured":
        target = values.get("target")
        told["target"] = "" if target is None else f", target {target:g}x"
    return templates[kind].format(**told) if kind in templates else ""


def _predicted(values: Values) -> str:
    speedup = values.get("predicted_speedup")
    return "" if speedup is None else f"predicted {speedup:.2f}x, "


def _busy(rows: Figure | Sequence[Mapping[str, Figure]]) -> str:
    if not isinstance(rows, list) or not rows:
        return ""
    shares = [float(row["busy"] or 0.0) for row in rows]
    return f"{len(rows)} workers, busy {min(shares):.0%} to {max(shares):.0%} of the search"


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
