"""Times lossless speculative decoding of the reference model by drafts that searches found.

    python -m benchmarks.speculation --output benchmarks/results/speculation.json
    python -m benchmarks.speculation --output benchmarks/results/speculation-float32.json \
        --dtype float32

A search over whole layers leaves so few of the model's parameters that it is a draft, and recovers
it on the text that the model was trained on. Prompts are sequences of held-out report text. Each
draft's settings are picked on prompts of their own; on the others, transformers' `generate` and
our loop without a proposer, with lookup, with each draft and with lookup before it answer in turn.
Greedy answers are compared token for token, drawn ones by a test of their first tokens. What the
output holds is not run again, nor is a search whose checkpoint lies in the folder of drafts.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2, chi2_contingency
from transformers import PreTrainedModel

from autocompress.evaluators.torch_engine import fastest_threads, load_checkpoint
from autocompress.models import loading
from autocompress.models.generation import generate
from autocompress.models.generation_settings import logits_processors
from autocompress.models.proposers import make_proposer
from autocompress.models.speculation import Choosing, Spoken, speak
from autocompress.models.text import draw_order, make_sequences, read_documents
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import cache_folder
from autocompress.spaces.decoding import Decoding
from autocompress.trial import Split
from autocompress.workload import Workload
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL
from benchmarks.rounds import median_interval

PROMPT, ANSWER = 128, 64
CONTEXT = 256
TUNING = 6
"""Prompts that settings are picked on, and nothing else."""
WARM_UPS = 2
MARGINS = {"float32": 1e-3, "bfloat16": 0.5}
"""Logits closer than that may be put in another order by another order of sums."""
TEST_PROMPTS, TEST_PROMPT, TEST_ANSWER = 4, 16, 4
FEWEST = 10
"""Draws of both ways together that a cell of the test must have; rarer ones are counted as one."""
SAMPLING: Decoding = {"do_sample": True, "temperature": 0.8}
LOOKUPS: tuple[Decoding, ...] = tuple(
    {"draft": "lookup", "draft_tokens": tokens, "draft_ngram": ngram}
    for tokens in (4, 8, 12)
    for ngram in (2, 3)
)
DRAFTED: tuple[Decoding, ...] = (
    *({"draft": "model", "draft_tokens": tokens} for tokens in (2, 3, 4, 6)),
    {"draft": "model", "draft_tokens": 4, "draft_length": "adaptive"},
    *(
        {
            "draft": "model",
            "draft_tokens": tokens,
            "draft_length": "threshold",
            "draft_threshold": threshold,
        }
        for tokens in (6, 12)
        for threshold in (0.2, 0.4, 0.6)
    ),
)
LOOKED_UP_FIRST: Decoding = {"draft": "both", "draft_ngram": 2, "draft_copied": 8}

Row = dict[str, Any]


def never(_answer: list[int]) -> bool:
    """Answers are of one length: what ends a text does not end them."""
    return False


@dataclass(frozen=True, slots=True)
class Way:
    """How one of the ways decodes; of a draft model its name."""

    decoding: Decoding
    draft: str = ""


class Bench:
    """The model, its drafts and the prompts."""

    def __init__(
        self, folders: Mapping[str, Path], prompts: Sequence[list[int]], dtype: str
    ) -> None:
        device = torch.device("cpu")
        self.model = loading.load_model(MODEL, device, dtype)
        self.drafts: dict[str, PreTrainedModel] = {
            name: load_checkpoint(folder, device, dtype) for name, folder in folders.items()
        }
        self.prompts = prompts
        self.threads = fastest_threads(self.model, Workload(1, PROMPT, ANSWER))

    def answered(
        self, way: Way, prompt: list[int], seed: int = 0, n_tokens: int = ANSWER
    ) -> Spoken:
        """Return our loop's answer."""
        sampled = bool(way.decoding.get("do_sample"))
        generator = torch.Generator().manual_seed(seed) if sampled else None
        choosing = Choosing(logits_processors(way.decoding), generator)
        proposer = make_proposer(way.decoding, choosing, self.drafts.get(way.draft))
        return speak(self.model, prompt, n_tokens, choosing, never, proposer)

    def timed(self, way: Way, prompt: list[int], seed: int = 0) -> tuple[float, Spoken]:
        """Return the seconds of an answer, and the answer."""
        started = time.perf_counter()
        spoken = self.answered(way, prompt, seed)
        return time.perf_counter() - started, spoken

    def generated(self, prompt: list[int]) -> tuple[float, list[int]]:
        """Return the seconds and the tokens of an answer by transformers' own loop."""
        started = time.perf_counter()
        whole, _ = generate(self.model, torch.tensor([prompt]), ANSWER)
        return time.perf_counter() - started, whole[0, len(prompt) :].tolist()

    def margin(self, text: list[int]) -> float:
        """Return by how much the highest logit after a text leads."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([text]), use_cache=False, logits_to_keep=1).logits
        first, second = logits[0, -1].topk(2).values.tolist()
        return float(first - second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--drafts", type=Path, default=cache_folder() / "drafts")
    parser.add_argument("--sizes", nargs="+", default=["33%"], help="parameters that are left")
    parser.add_argument("--budget", default="60s", help="of each search")
    parser.add_argument("--recover", default="1M", help="tokens that each draft is trained on")
    parser.add_argument("--dtype", choices=MARGINS, default="bfloat16")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--draws", type=int, default=2000, help="of each way, for the test")
    arguments = parser.parse_args()
    folders, searches = {}, {}
    for size in arguments.sizes:
        found = searched(arguments.drafts, size, arguments.budget, arguments.recover)
        report = json.loads((found / "report.json").read_text(encoding="utf-8"))
        folders[size] = found / "model"
        searches[size] = {
            "kl": report["loss"]["kl"],
            "parameters": report["parameters"]["compressed"],
            "budget": arguments.budget,
            "recover": arguments.recover,
        }
    bench = Bench(folders, report_prompts(TUNING + arguments.prompts), arguments.dtype)
    result: Row = {
        "searches": searches,
        "hardware": hardware(torch.device("cpu"), bench.threads),
        "settings": {},
        "rows": [],
        "test": {},
        "dtype": arguments.dtype,
        "margin": MARGINS[arguments.dtype],
    }
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))
        if known["searches"] == searches:
            result |= {name: known[name] for name in ("settings", "rows", "test")}
    keep = Keeper(arguments.output, result)
    settings = result["settings"] or picked(bench)
    keep.put("settings", settings)
    ways = {name: Way(own["decoding"], own["draft"]) for name, own in settings.items()}
    for number in range(len(result["rows"]), arguments.prompts):
        if not number:
            measured(bench, ways, bench.prompts[0])  # warms up
        prompt = bench.prompts[TUNING + number]
        keep.put("rows", [*result["rows"], measured(bench, ways, prompt)])
        print(number + 1, json.dumps(summary(result["rows"])["greedy"]), flush=True)
    if not result["test"]:
        keep.put("test", tested(bench, ways, arguments.draws))
    keep.put("summary", summary(result["rows"]))
    print(json.dumps(result["summary"] | {"test": result["test"]}), flush=True)


class Keeper:
    """Writes a result down whenever a part of it is known."""

    def __init__(self, output: Path, result: Row) -> None:
        self._output = output
        self._result = result

    def put(self, name: str, value: object) -> None:
        """Set a part."""
        self._result[name] = value
        write_whole(self._output, self._result)


def searched(drafts: Path, size: str, budget: str, recover: str) -> Path:
    """Return the folder of what a search leaves; run it where it is not there."""
    found = drafts / f"{size}-{budget}-{recover}"
    if not (found / "report.json").is_file():
        drafts.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "autocompress", "search", str(MODEL)]
        # How fast the draft is here is measured below; a profile of its own would take minutes.
        command += ["--space", "depth", "--whole-layers", "--target-params", size]
        command += ["--budget", budget, "--recover", recover]
        command += [f"--storage=sqlite:///{drafts}/studies.db", f"--output={found}"]
        subprocess.run(command, check=True)
    return found


def report_prompts(count: int) -> list[list[int]]:
    """Return the first tokens of sequences of report text, in an order drawn once."""
    tokenizer = loading.load_tokenizer(MODEL)
    rows = make_sequences(tokenizer, read_documents(None), CONTEXT)[Split.REPORT]
    order = draw_order(len(rows), Split.REPORT, 0, 0)[:count]
    prompts: list[list[int]] = rows[order, :PROMPT].tolist()
    return prompts


def picked(bench: Bench) -> Row:
    """Return the fastest setting of lookup and of each draft on the prompts for that.

    Their speedups there are told too: they are of the best of several, and no figure.
    """
    candidates = {
        "lookup": [Way(own) for own in LOOKUPS],
        **{name: [Way(own, name) for own in DRAFTED] for name in bench.drafts},
        **{
            f"lookup, else {name}": [Way({**own, **LOOKED_UP_FIRST}, name) for own in DRAFTED]
            for name in bench.drafts
        },
    }
    plain = Way({})
    ratios: dict[str, list[list[float]]] = {
        name: [[] for _ in own] for name, own in candidates.items()
    }
    for prompt in bench.prompts[:TUNING]:
        for name, ways in candidates.items():
            alone, _ = bench.timed(plain, prompt)
            for own, way in zip(ratios[name], ways, strict=True):
                own.append(alone / bench.timed(way, prompt)[0])
    found: Row = {}
    for name, ways in candidates.items():
        medians = [float(np.median(own)) for own in ratios[name]]
        best = int(np.argmax(medians))
        found[name] = {
            "decoding": dict(ways[best].decoding),
            "draft": ways[best].draft,
            "speedup": medians[best],
        }
        print(name, found[name], flush=True)
    return found


def measured(bench: Bench, ways: Mapping[str, Way], prompt: list[int]) -> Row:
    """Return the seconds of one prompt's answers, each way in turn, greedy and drawn."""
    generate_seconds, generated = bench.generated(prompt)
    plain_seconds, plain = bench.timed(Way({}), prompt)
    row: Row = {
        "generate": generate_seconds,
        "plain": plain_seconds,
        "differs_from_generate": difference(bench, prompt, generated, plain.tokens),
        "greedy": {},
        "sampled": {},
        "sampled_plain": bench.timed(Way(SAMPLING), prompt)[0],
    }
    for name, way in ways.items():
        seconds, spoken = bench.timed(way, prompt)
        row["greedy"][name] = told(seconds, spoken) | {
            "differs": difference(bench, prompt, spoken.tokens, plain.tokens)
        }
        drawn = Way({**way.decoding, **SAMPLING}, way.draft)
        row["sampled"][name] = told(*bench.timed(drawn, prompt))
    return row


def told(seconds: float, spoken: Spoken) -> Row:
    return {"seconds": seconds, "proposed": spoken.proposed, "accepted": spoken.accepted}


def difference(bench: Bench, prompt: list[int], one: list[int], other: list[int]) -> Row | None:
    """Return where two answers part, and by how much the model preferred one there."""
    for place, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return {"place": place, "margin": bench.margin(prompt + one[:place])}
    return None


def summary(rows: Sequence[Row]) -> Row:
    """Return medians of ratios within prompts, with their intervals, of all ways."""
    plain = np.array([row["plain"] for row in rows])
    generate_seconds = np.array([row["generate"] for row in rows])
    drawn = np.array([row["sampled_plain"] for row in rows])
    found: Row = {
        "tokens_a_second": {
            "generate": ANSWER / float(np.median(generate_seconds)),
            "plain": ANSWER / float(np.median(plain)),
        },
        "plain_over_generate": ratio(generate_seconds / plain),
        "differences": differences([row["differs_from_generate"] for row in rows]),
        "greedy": {},
        "sampled": {},
    }
    for name in rows[0]["greedy"]:
        own = [row["greedy"][name] for row in rows]
        seconds = np.array([one["seconds"] for one in own])
        found["greedy"][name] = {
            "speedup": ratio(plain / seconds),
            "speedup_over_generate": ratio(generate_seconds / seconds),
            "tokens_a_second": ANSWER / float(np.median(seconds)),
            "acceptance": acceptance(own),
            "differences": differences([one["differs"] for one in own]),
        }
        sampled = [row["sampled"][name] for row in rows]
        seconds = np.array([one["seconds"] for one in sampled])
        found["sampled"][name] = {
            "speedup": ratio(drawn / seconds),
            "acceptance": acceptance(sampled),
        }
    return found


def ratio(values: np.ndarray) -> Row:
    if len(values) < 2:
        return {"median": float(values[0]), "interval": None}
    median, interval = median_interval(values, 0)
    return {"median": median, "interval": list(interval)}


def acceptance(rows: Sequence[Row]) -> float:
    proposed = sum(row["proposed"] for row in rows)
    return float(sum(row["accepted"] for row in rows) / max(1, proposed))


def differences(found: Sequence[Row | None]) -> Row:
    """Return how many answers were the same, and the widest margin at which one was another."""
    margins = [own["margin"] for own in found if own is not None]
    return {
        "identical": len(found) - len(margins),
        "of": len(found),
        "widest_margin": max(margins, default=0.0),
    }


def tested(bench: Bench, ways: Mapping[str, Way], draws: int) -> Row:
    """Return, for each way, how probable so unlike draws are if it changes no distribution.

    The first tokens of answers to short prompts are counted, those of both ways, and compared by
    a chi-square test of two samples for each prompt; the statistics and their degrees of freedom
    are added.
    """
    prompts = [prompt[:TEST_PROMPT] for prompt in bench.prompts[:TEST_PROMPTS]]
    each = draws // len(prompts)

    def counted(way: Way, first_seed: int) -> list[Counter[tuple[int, ...]]]:
        own = Way({**way.decoding, **SAMPLING}, way.draft)
        return [
            Counter(
                tuple(bench.answered(own, prompt, first_seed + draw, TEST_ANSWER).tokens)
                for draw in range(each)
            )
            for prompt in prompts
        ]

    plain = counted(Way({}), 0)
    again = counted(Way({}), 10_000_000)
    found: Row = {"alone": two_samples(plain, again)}
    for number, (name, way) in enumerate(ways.items(), 1):
        found[name] = two_samples(plain, counted(way, 1_000_000 * number))
        print(name, found[name], flush=True)
    return {"draws": each * len(prompts), "tokens": TEST_ANSWER, "ways": found}


def two_samples(
    ones: Sequence[Counter[tuple[int, ...]]], others: Sequence[Counter[tuple[int, ...]]]
) -> Row:
    """Return the statistic of all prompts, its degrees of freedom and its p-value."""
    statistic, freedom = 0.0, 0
    for one, other in zip(ones, others, strict=True):
        both = one + other
        common = [cell for cell, count in both.items() if count >= FEWEST]
        table = np.array([[own[cell] for cell in common] for own in (one, other)])
        rest = np.array([[own.total()] for own in (one, other)]) - table.sum(1, keepdims=True)
        table = np.hstack([table, rest]) if rest.sum() else table
        own = chi2_contingency(table, correction=False)
        statistic += float(own.statistic)
        freedom += int(own.dof)
    return {"statistic": statistic, "freedom": freedom, "p": float(chi2.sf(statistic, freedom))}


if __name__ == "__main__":
    main()
