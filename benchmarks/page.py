"""Writes docs/measured.md and docs/speculation.md from the results that lie in benchmarks/results.

python -m benchmarks.page
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import (
    bayes_page,
    contest_page,
    darwin_page,
    decoding_page,
    depth_ways_page,
    gguf_page,
    joint_page,
    latency_page,
    memory_page,
    metric_page,
    operators_page,
    optimum_page,
    pareto_page,
    profile_page,
    recovery_page,
    roofline_page,
    scale_page,
    scaling_page,
    speculation_page,
    targets_page,
)
from benchmarks.contest import finished
from benchmarks.markdown_table import table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BASELINES = ("uniform", "random", "additive")
INTRODUCTION = (
    "Written by `python -m benchmarks.page` from the files in `benchmarks/results`; each section "
    "names the command that made its file. The model is the shipped reference model, the workload "
    "`1x128+64`."
)


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def spread(middle: float, interval: Sequence[float]) -> str:
    return f"{middle:.2f}x [{interval[0]:.2f}, {interval[1]:.2f}]"


def stock_perplexity(result: Any) -> str:
    return (
        "## Checkpoints in compressed-tensors, as stock transformers loads them\n\n"
        "`python -m benchmarks.stock_perplexity --output "
        "benchmarks/results/stock-perplexity.json`\n\n"
        f"Perplexity of {result['sequences']} sequences of report text: of the searched "
        "candidate, and of its checkpoint as `AutoModelForCausalLM` loads it with the package "
        "`compressed-tensors` and no code of ours.\n\n"
        + table(
            ["candidate", "searched", "loaded", "loaded / searched"],
            [
                [
                    row["candidate"],
                    f"{row['searched']:.4f}",
                    f"{row['loaded']:.4f}",
                    f"{row['ratio']:.6f}",
                ]
                for row in result["rows"]
            ],
        )
    )


def stock_speed(result: Any) -> str:
    measured = spread(result["report"], result["report_interval"])
    rows = [
        [way, spread(own["speedup"], own["interval"])]
        + [f"{milliseconds:.4g}" for milliseconds in own["milliseconds"]]
        for way, own in result["stock"].items()
    ]
    return (
        "## A checkpoint of depth and width, in stock transformers\n\n"
        "`python -m benchmarks.stock_speed --output benchmarks/results/stock-speed.json`\n\n"
        f"A search in depth and width for {result['target']} ({result['workload']}, "
        f"{result['hardware']}; KL {result['kl']:.4f}) reported {measured} of its checkpoint. "
        "Loaded by `AutoModelForCausalLM`, it answered in turn with the dense model, "
        f"{result['repeats']} times each, by the model's own forward passes with its KV cache and "
        "by `generate`, whose own work for each token no layer saves"
        f"{', measured beside ' + result['beside'] if result['beside'] else ''}.\n\n"
        + table(["by", "speedup", "dense, ms a request", "compressed, ms a request"], rows)
    )


def main_jobs(twice: Any, half: Any) -> str:
    return (
        '## The main job\n\n`make search` and `make search TARGET="--target-speedup 1.5x"` in a '
        "fresh clone; their reports are `benchmarks/results/main-job.json` and "
        "`main-job-1.5x.json`. The first search profiled the machine, the second took the tables "
        "that it left in the store; each searched depth, width and bits, exported, and timed the "
        "checkpoint from disk against dense, in turn in each of several processes (that for 1.5x, "
        "of an earlier version, in one: its interval is too narrow). The held-out "
        "configurations are whole, random, and none that the predictor was fitted on. Other "
        "machines charge attention and MLP otherwise, and then other candidates reach the "
        "target, at another loss.\n\n"
        + table(
            ["", "2x", "1.5x"],
            [
                [name, first, second]
                for (name, first), (_, second) in zip(main_job(twice), main_job(half), strict=True)
            ],
        )
    )


def main_job(report: Any) -> list[list[str]]:
    speed, model, loss = report["speedup"], report["latency_model"], report["loss"]
    points = [point["measured"] for point in model["points"]]
    search, base = report["search"], report["baselines"]
    return [
        ["speedup, measured end to end", spread(speed["measured"], speed["measured_interval"])],
        ["speedup, predicted", spread(speed["predicted"], speed["predicted_interval"])],
        ["machine", report["hardware"]],
        ["verdict", report["verdict"]],
        ["KL from dense", f"{loss['kl']:.4f} nats a token"],
        ["perplexity", f"{loss['perplexity'] / loss['dense_perplexity']:.2f}x dense"],
        *[[f"KL of {name}", f"{base[name]['kl']:.4f}"] for name in BASELINES],
        ["corrections", str(len(report["corrections"]))],
        ["cost", f"{search['tokens'] / 1e6:.2f} M tokens, {search['seconds']:.0f} s"],
        ["predictor's MAPE, held out", f"{model['mape']:.1%} of {len(points)} configurations"],
        ["their measured speedups", f"{min(points):.2f}x to {max(points):.2f}x"],
        ["measuring one twice differs by", f"{model['repeat_error']:.1%} (median)"],
        ["rank correlation", f"{model['rank_correlation']:.3f}"],
        [
            "90 % interval, coverage",
            f"± {model['interval_half_width']:.1%}, {model['coverage']:.0%}",
        ],
    ]


def vllm_job(report: Any) -> str:
    gate = report["gate"]
    ratio = gate["perplexity"] / report["loss"]["perplexity"]
    rows = [*main_job(report), ["perplexity that vLLM reads", f"{ratio:.4f}x what was searched"]]
    return (
        "## A search for vLLM\n\n"
        f"`{report['command']}`, beside other work on the machine, by vLLM "
        f"{gate['engine_version']}; its report is `benchmarks/results/main-job-vllm.json`. "
        "Each configuration is a "
        "checkpoint that vLLM was started on; the winner was timed in turn with the dense model, "
        f"two starts of vLLM each ({report['workload']}).\n\n" + table(["", ""], rows)
    )


def evaluation(results: Sequence[Any]) -> str:
    rows = [
        [
            result["space"],
            row["way"],
            f"{row['ratio']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}]",
            f"{row['saved']:.1%}, {row['theory']:.1%}",
            f"{row['largest_difference']:.2g}",
        ]
        for result in results
        for row in result["rows"]
    ]
    first = results[0]
    head = ["space", "where", "times faster", "sub-blocks saved, in theory", "largest difference"]
    return (
        "## One generation, as a population and one by one\n\n"
        "`python -m benchmarks.evaluation --space depth --output "
        "benchmarks/results/evaluation-depth.json` (and `--space depth,width`)\n\n"
        f"{first['candidates']} mutants of one random parent on {first['sequences']} sequences of "
        f"{first['context']} tokens, {first['rounds']} rounds in turn; medians with a 95 % "
        "bootstrap interval, and the largest relative difference of any candidate's loss. "
        f"{first['hardware']}. In depth and width the parent's sites differ in width, mutants "
        "change more of them, and the first change comes early: little is shared.\n\n"
        + table(head, rows)
    )


def resumes(result: Any) -> str:
    rows = [
        [
            f"kill -9 after {row['killed_after_seconds']} s, then resume"
            if "killed_after_seconds" in row
            else f"{row['pool']} pool, {row['workers']} workers",
            str(row["same_winner"]),
            str(row["same_shards"]),
        ]
        for row in result["rows"]
    ]
    verdict = "all of them" if result["all_same"] else "NOT all of them"
    return (
        "## Kills, resumes, workers and pools\n\n"
        "`python benchmarks/resume.py --output benchmarks/results/resume.json`, at commit "
        "d28bf6a; the slow tests do the same on a tiny model at every commit.\n\n"
        f"An undisturbed search of {result['shards']} shards took "
        f"{result['undisturbed_seconds']} s. The others ended with the same winner and the same "
        f"shards, none lost, none doubled, losses equal to the bit: {verdict}.\n\n"
        + table(["run", "same winner", "same shards"], rows)
    )


def failures(result: Any) -> str:
    kinds = result["by_kind"]
    names = {"driver": "drivers", "worker": "workers", "database": "stops of the database"}
    told = ", ".join(f"{kinds.get(kind, 0)} {words}" for kind, words in names.items())
    ended = kinds.get("ended in one line", 0)
    return (
        "## Drivers, workers and the database, killed at random moments\n\n"
        "`python -m benchmarks.failures --output benchmarks/results/failures.json` (CI runs a "
        "sample)\n\n"
        f"{result['failures']} failures in {result['searches']} searches of a tiny model, its "
        f"study in a PostgreSQL of the benchmark's own: {told}, all with kill -9 or as by a power "
        f"cut, {result['failures'] / result['searches']:.1f} a search of "
        f"{result['undisturbed_seconds']:.0f} s. A killed driver's study was resumed; the rest "
        f"the searches rode out by themselves, but {ended} times the database was away when a "
        "command opened it, which then says so in one line and ends, and was given again. Each "
        f"search was held against the undisturbed one: its winner, and all {result['shards']} "
        "shards that were measured, losses to the bit, none lost and none doubled. "
        f"**Differences: {result['differences']}.**\n"
    )


def store(result: Any) -> str:
    head = ["", *(f"{row['database']}, {row['trials']:,} trials" for row in result["rows"])]
    lines = {
        "inserts a second, 1,000 at a time": ("inserts_a_second", "{:,.0f}"),
        "driver, store and Ray, ms a trial (median)": ("ms_a_trial", "{:.2f}"),
        "the same, 95th percentile": ("p95_ms_a_trial", "{:.2f}"),
        "the twenty best trials, ms": ("best_ms", "{:.1f}"),
        "seconds to read all of it for a resume": ("seconds_to_resume", "{:.2f}"),
        "seconds until the dashboard shows all that it shows": ("seconds_until_fresh", "{:.0f}"),
        "dashboard: list of studies, ms": ("list_ms", "{:.0f}"),
        "dashboard: the study, first time, ms": ("study_cold_ms", "{:.0f}"),
        "dashboard: the study, again, ms": ("study_warm_ms", "{:.0f}"),
    }
    return (
        "## The store, and the dashboard on it\n\n"
        "`python -m benchmarks.store --output benchmarks/results/store.json`\n\n"
        f"Candidates of {result['genes']} genes, read on eight sequences; batches of 16 measured "
        "by two Ray workers that answer at once, each shard a transaction. The dashboard shows "
        f"2,000 trials of a study at most. {result['hardware']}.\n\n"
        + table(
            head,
            [
                [name, *(form.format(row[key]) for row in result["rows"])]
                for name, (key, form) in lines.items()
            ],
        )
    )


def main() -> None:
    parts = [
        f"# What was measured\n\n{INTRODUCTION}",
        main_jobs(read("main-job.json"), read("main-job-1.5x.json")),
    ]
    for name, own in contest_page.SECTIONS.items():
        if (RESULTS / name).is_file() and (result := finished(read(name)))["rows"]:
            parts.append(contest_page.section(own, result))
            contest_page.draw(own, result, ROOT / "docs")
        if name == "depth.json" and (RESULTS / "depth-ways.json").is_file():
            parts.append(depth_ways_page.section(read("depth-ways.json")))
    if (RESULTS / "bayes.json").is_file() and bayes_page.complete_rows(read("bayes.json")):
        parts.append(bayes_page.section(read("bayes.json")))
    if (RESULTS / "joint.json").is_file() and joint_page.complete_rows(read("joint.json")):
        parts.append(joint_page.section(read("joint.json")))
    if (RESULTS / "pareto.json").is_file() and pareto_page.compared(read("pareto.json")):
        fronts = read("pareto.json")
        parts.append(pareto_page.section(fronts))
        pareto_page.draw(fronts, ROOT / "docs" / "pareto.png")
    if (RESULTS / "recovery.json").is_file():
        recovery = read("recovery.json")
        is_there = (RESULTS / "recovery-worst.json").is_file()
        worst = read("recovery-worst.json") if is_there else None
        parts.append(recovery_page.section(recovery, worst))
        recovery_page.draw(recovery, ROOT / "docs" / "recovery.png")
    if (RESULTS / "darwin.json").is_file():
        parts.append(darwin_page.section(read("darwin.json")))
    if (RESULTS / "gguf.json").is_file():
        parts.append(gguf_page.section(read("gguf.json")))
    if (RESULTS / "latency.json").is_file():
        latency = read("latency.json")
        parts.append(latency_page.section(latency))
        latency_page.draw(latency, ROOT / "docs" / "latency.png")
    if (RESULTS / "targets.json").is_file():
        is_there = (RESULTS / "targets-busy.json").is_file()
        busy = read("targets-busy.json") if is_there else None
        parts.append(targets_page.section(read("targets.json"), busy))
    parts += profile_page.sections(ROOT / "docs")
    if (RESULTS / "stock-perplexity.json").is_file():
        parts.append(stock_perplexity(read("stock-perplexity.json")))
    if (RESULTS / "main-job-vllm.json").is_file():
        parts.append(vllm_job(read("main-job-vllm.json")))
    if (RESULTS / "stock-speed.json").is_file():
        parts.append(stock_speed(read("stock-speed.json")))
    if (RESULTS / "roofline.json").is_file():
        roofline = read("roofline.json")
        parts.append(roofline_page.section(roofline))
        roofline_page.draw(roofline, ROOT / "docs" / "roofline.png")
    if (RESULTS / "roofline-h200.json").is_file():
        parts.append(roofline_page.gpu_section(read("roofline-h200.json")))
    if (RESULTS / "optimum.json").is_file():
        parts.append(optimum_page.section(read("optimum.json")))
    if (RESULTS / "operators.json").is_file():
        parts.append(operators_page.section(read("operators.json")))
    if (RESULTS / "decoding.json").is_file():
        parts.append(decoding_page.section(read("decoding.json")))
    if (RESULTS / "joint-decoding.json").is_file():
        parts.append(decoding_page.joint_section(read("joint-decoding.json")))
    if (RESULTS / "metric.json").is_file():
        parts.append(metric_page.section(read("metric.json")))
    evaluations = [RESULTS / f"evaluation-{name}.json" for name in ("depth", "depth-width")]
    if all(path.is_file() for path in evaluations):
        parts.append(evaluation([read(path.name) for path in evaluations]))
    if (RESULTS / "memory.json").is_file():
        memory = read("memory.json")
        parts.append(memory_page.section(memory))
        memory_page.draw(memory, ROOT / "docs" / "memory.png")
    scales = scale_page.read_results()
    if scales:
        parts.append(scale_page.section(scales))
    if (RESULTS / "scaling.json").is_file():
        scaling = read("scaling.json")
        parts.append(scaling_page.section(scaling))
        scaling_page.draw(scaling, ROOT / "docs" / "scaling.png")
    if (RESULTS / "resume.json").is_file():
        parts.append(resumes(read("resume.json")))
    if (RESULTS / "failures.json").is_file():
        parts.append(failures(read("failures.json")))
    if (RESULTS / "store.json").is_file():
        parts.append(store(read("store.json")))
    page = ROOT / "docs" / "measured.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    names = [f"speculation{dtype}.json" for dtype in ("", "-float32")]
    told = {name: read(name) for name in names if (RESULTS / name).is_file()}
    told = {name: result for name, result in told.items() if "summary" in result}
    if told:
        speculation_page.write(told, ROOT / "docs" / "speculation.md")


if __name__ == "__main__":
    main()
