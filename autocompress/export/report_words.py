"""Says what a report holds in words: the headline, the rows of its tables.

Knows no markup; `report_html` and `report_markdown` set these words.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from autocompress.export.figures import short
from autocompress.export.report import Baseline, Correction, Report, Target, Verdict
from autocompress.workload import Mix, Phase

Rows: TypeAlias = list[tuple[str, str]]
_COUNTED: Final[Mapping[str | None, str]] = {
    None: "bits a weight",
    "nominal": "bits a searched weight (codes alone)",
    "stored": "bits a searched weight (scales, zero points and masks counted)",
    "whole": "bits a weight of the whole model (embeddings and head counted)",
}
"""Bits, by which of them a target counts."""


def headline(report: Report) -> str:
    """Return the verdict with what was got; bad news comes first."""
    is_accepted = report.gate is None or report.gate.passed
    leads = [] if report.verdict is Verdict.USABLE and not is_accepted else [report.verdict.value]
    said = []
    if not is_accepted:
        leads.append("GATE FAILED")
        said.append("the engine did not accept the file as what was searched")
    quality = f"perplexity {report.loss.ratio:.2f}x dense"
    if report.verdict is Verdict.UNUSABLE:
        quality += f", above the floor of {report.quality_floor:.2f}x"
    if not report.met:
        said.append(_missed(report))
    got = [*(_reached(report, own) for own in report.targets), speed(report), quality]
    got = [words for words in got if words]
    if report.verdict is Verdict.UNUSABLE:
        said.insert(0, got.pop())
    return f"{', '.join(leads)}: {'; '.join([*said, ', '.join(got)])}"


def speed(report: Report) -> str:
    """Say how fast it is; what was only predicted is called predicted."""
    got = report.speedup
    if got.measured is not None:
        return f"{_times(got.measured)} faster{_interval(got.measured_interval)} measured"
    if got.predicted is not None:
        interval = _interval(got.predicted_interval)
        return f"predicted {_times(got.predicted)} faster{interval}, not measured"
    return "speed neither predicted nor measured"


def _missed(report: Report) -> str:
    """Name the targets that the winner misses: all, where they were not judged one by one."""
    missed = [own for own in report.targets if own.met is False] or report.targets
    named = " and ".join(map(target, missed))
    if len(missed) == 1:
        return f"the target of {named} was missed"
    return f"the targets of {named} were missed"


def target(own: Target) -> str:
    """Write a target with its unit."""
    kind, value = own.kind, own.value
    forms = {
        "speedup": f"{value:g}x speed",
        "latency": f"{value:g} ms",
        "throughput": f"{value:g} tokens a second",
        "memory": f"{short(value)}B of memory",
        "bytes": f"{short(value)}B",
        "bits": f"{value:g} {_COUNTED[own.counted]}",
        "params": f"{percent(value)} of the parameters",
    }
    return forms.get(kind, f"{kind} {value:g}")


def essentials(report: Report) -> Rows:
    """Return what a reader with one minute needs: what was got and what it cost."""
    got, loss, search = report.speedup, report.loss, report.search
    size, parameters = report.bytes, report.parameters
    predicted = "not predicted"
    if got.predicted is not None:
        predicted = f"{_times(got.predicted)}{_interval(got.predicted_interval)}"
    measured = "not measured"
    if got.measured is not None:
        measured = f"{_times(got.measured)}{_interval(got.measured_interval)}"
    on_disk = "" if size.on_disk is None else f"; {short(size.on_disk)}B on disk"
    return [
        *(("Target", f"{target(own)}: {_met(report, own)}") for own in report.targets),
        ("Speedup, measured", measured),
        ("Speedup, predicted", predicted),
        ("Time of a request", _taken(report)),
        ("First token", _phase(report, report.speedup.first_token, 1)),
        ("Each further token", _phase(report, report.speedup.further_token, 2)),
        ("Throughput", _throughput(report)),
        ("Peak memory", _memory(report)),
        (
            "Perplexity, held out",
            (
                f"{_perplexity(loss.perplexity)}, dense {_perplexity(loss.dense_perplexity)} "
                f"({loss.ratio:.2f}x; floor {report.quality_floor:.2f}x)"
            ),
        ),
        ("KL from dense", f"{_kl(loss.kl, loss.kl_stderr)} nats a token"),
        *recovery_rows(report),
        (
            "Bytes",
            (
                f"{short(size.dense)}B to {short(size.compressed)}B "
                f"({percent(size.compressed / size.dense)} kept){on_disk}"
            ),
        ),
        (
            "Parameters",
            (
                f"{short(parameters.dense)} to {short(parameters.compressed)} "
                f"({percent(parameters.compressed / parameters.dense)} kept)"
            ),
        ),
        ("Bits", _bits(report)),
        (
            "Cost of the search",
            f"{search.trials:,} trials, {short(search.tokens)} tokens, {duration(search.seconds)}",
        ),
    ]


def recovery_rows(report: Report) -> Rows:
    """Return what training the winner gave back; nothing where it was not trained."""
    own = report.recovery
    if own is None:
        return []
    before, after = own.before, report.loss
    back = (before.kl - after.kl) / before.kl if before.kl else 0.0
    passes = own.tokens / own.text_tokens
    read = f", the text {passes:.1f} times" if passes > 1 else ""
    return [
        (
            "Recovery",
            (
                f"KL {_kl(before.kl, before.kl_stderr)} before, {percent(back)} of it given back; "
                f"perplexity {before.ratio:.2f}x dense before, {after.ratio:.2f}x after"
            ),
        ),
        (
            "Trained on",
            (
                f"{short(own.tokens)} tokens of a text of {short(own.text_tokens)}{read}, in "
                f"{duration(own.seconds)}"
            ),
        ),
    ]


def baseline_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Return method, KL, perplexity, paired difference and predicted speedup, ours first."""
    dense, speed = report.loss.dense_perplexity, _predicted(report.speedup.predicted)
    own = [("this search", report.searched)]
    if report.recovery is not None:
        own.insert(0, ("the same, recovered", report.loss))
    rows = [
        (name, _kl(loss.kl, loss.kl_stderr), _ratio(loss.perplexity, dense), "", speed)
        for name, loss in own
    ]
    for name, baseline in named_baselines(report):
        difference = baseline.paired_difference
        rows.append(
            (
                name,
                _kl(baseline.kl, baseline.kl_stderr),
                _ratio(baseline.perplexity, dense),
                "not tested" if difference is None else _signed(difference),
                _predicted(baseline.speedup_predicted),
            )
        )
    return rows


def gate_rows(report: Report) -> Rows:
    """Return what the engine said of the file on disk."""
    gate = report.gate
    if gate is None:
        return [("Gate", "not run: no engine has opened the checkpoint")]
    difference = gate.max_logit_difference
    rows = [
        ("Gate", "passed" if gate.passed else "FAILED"),
        ("Opened by", f"{gate.engine} {gate.engine_version}"),
        (
            "Largest logit difference",
            "not measured" if difference is None else f"{difference:.2g}",
        ),
        ("Bytes as counted", "yes" if gate.bytes_match else "NO"),
        ("Answers", "yes" if gate.answered else "NO"),
    ]
    if gate.perplexity is not None:
        ratio = gate.perplexity / report.loss.perplexity
        told = f"{_perplexity(gate.perplexity)}, {ratio:.4f}x what was searched"
        rows.append(("Perplexity of the file, as it reads", told))
    return rows


def method_rows(report: Report) -> Rows:
    """Return how it was measured."""
    model, search = report.latency_model, report.search
    rows = [
        ("Model", report.model),
        ("Study", f"{report.study}, seed {report.seed}"),
        ("Engine", report.engine),
        ("Hardware", report.hardware),
        ("Workload", f"{report.workload} (batch x prompt + generated tokens)"),
        ("Held-out text", f"{report.loss.held_out_tokens:,} tokens that nothing before has read"),
        ("Search", f"{search.generations} generations; stopped because: {search.stopped_because}"),
    ]
    if model is not None:
        rows.append(("Latency model", latency_model(report)))
    rows += [("Correction", _correction(correction)) for correction in report.corrections]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [*rows, ("Versions", versions)]


def _correction(made: Correction) -> str:
    """Say why another search was asked for."""
    if made.kind == "memory":
        return (
            f"asked {made.target_asked:,.0f} bytes of memory, measured {made.measured:,.0f}; then "
            f"searched for {made.target_used:,.0f}"
        )
    then = "gave speed back, down to" if made.kind == "given back" else "searched for"
    return (
        f"asked {made.target_asked:.2f}x, measured {made.measured:.2f}x"
        f"{_interval(made.measured_interval)}; then {then} {made.target_used:.2f}x"
    )


def latency_model(report: Report) -> str:
    """State the predictor's error on held-out configurations."""
    model = report.latency_model
    if model is None:
        return "none"
    parts = [f"mean error {percent(model.mape, 1)} on {model.held_out} held-out configurations"]
    if model.interval_half_width is not None:
        parts.append(f"interval ± {percent(model.interval_half_width, 1)}")
    if model.coverage is not None:
        parts.append(f"which held {percent(model.coverage)} of them")
    if model.rank_correlation is not None:
        parts.append(f"rank correlation {model.rank_correlation:.3f}")
    if model.repeat_error is not None:
        parts.append(f"measuring twice differs by {percent(model.repeat_error, 1)}")
    return ", ".join(parts)


def snippet(report: Report) -> str:
    """Return the Python that loads the checkpoint."""
    folder = json.dumps(report.checkpoint)
    if report.checkpoint.endswith(".gguf"):
        return f"from llama_cpp import Llama\n\nmodel = Llama({folder})\n"
    trust = ", trust_remote_code=True" if report.needs_remote_code else ""
    if report.engine == "vllm":
        return f"from vllm import LLM\n\nmodel = LLM({folder}{trust})\n"
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({folder})\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder}{trust})\n"
    )


def duration(seconds: float) -> str:
    """Write seconds as a person says them."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def named_baselines(report: Report) -> list[tuple[str, Baseline]]:
    """Return the baselines that found a candidate, the strongest method first."""
    three = report.baselines
    named = (("additive", three.additive), ("uniform", three.uniform), ("random", three.random))
    return [(name, baseline) for name, baseline in named if baseline is not None]


def _taken(report: Report) -> str:
    """Say how long a request takes."""
    got = report.speedup
    if got.milliseconds is None and got.milliseconds_predicted is not None:
        dense, compressed = got.milliseconds_predicted
        return f"predicted {compressed:.4g} ms, dense {dense:.4g} ms"
    if got.milliseconds is None:
        return "not measured"
    dense, compressed = got.milliseconds
    interval = ""
    if got.milliseconds_interval is not None:
        low, high = got.milliseconds_interval
        interval = f" [{low:.4g}, {high:.4g}]"
    return f"{compressed:.4g} ms{interval}, dense {dense:.4g} ms"


def _phase(report: Report, times: Sequence[tuple[float, float]], token: int) -> str:
    """Say how long a token takes, of each workload that generates so many."""
    mix = Mix.parse(report.workload)
    told = [
        (f"{workload}: " if len(mix.parts) > 1 else "")
        + f"{compressed:.4g} ms, dense {dense:.4g} ms"
        for workload, (dense, compressed) in zip(mix.workloads, times, strict=False)
        if workload.generated >= token
    ]
    return "; ".join(told) or "not measured"


def _throughput(report: Report) -> str:
    """Say how many tokens a second that is, of one kind of request."""
    mix, got = Mix.parse(report.workload), report.speedup
    times = got.milliseconds or got.milliseconds_predicted
    if times is None or len(mix.parts) > 1:
        return "not measured" if times is None else "of several kinds of requests: not told"
    named = {
        Phase.WHOLE: "generated tokens a second, prompts included in the time",
        Phase.DECODE: "tokens a second",
        Phase.PREFILL: "prompt tokens a second",
    }[mix.first.phase]
    before, after = map(mix.first.throughput, times)
    predicted = "" if got.milliseconds else "predicted "
    return f"{predicted}{after:,.4g} {named}, dense {before:,.4g}"


def _memory(report: Report) -> str:
    """Say what serving holds."""
    held = report.memory
    if held is None:
        return "not measured"
    share = percent(held.compressed / held.dense)
    return f"{short(held.compressed)}B of {short(held.dense)}B ({share})"


def _reached(report: Report, own: Target) -> str:
    """Say what was got where a target asks for it; nothing of a speedup, which is always told."""
    if own.kind == "latency":
        return _taken(report)
    if own.kind == "throughput":
        return _throughput(report)
    if own.kind == "memory":
        return f"{_memory(report)} held"
    if own.kind == "bytes":
        return f"{short(report.bytes.compressed)}B of {short(report.bytes.dense)}B"
    if own.kind == "bits":
        found = _counted_bits(report).get(own.counted)
        return "" if found is None else f"{found:.2f} {_COUNTED[own.counted]}"
    if own.kind == "params":
        kept = report.parameters.compressed / report.parameters.dense
        return f"{percent(kept)} of the parameters"
    return ""


def _counted_bits(report: Report) -> Mapping[str | None, float | None]:
    """Return the bits that a weight takes, by what a target counts."""
    own = report.bits
    return {"nominal": own.nominal, "stored": own.true, "whole": own.whole}


def _bits(report: Report) -> str:
    """Say how many bits a weight takes, counted in every way."""
    own = report.bits
    told = f"{own.nominal:.2f} nominal, {own.true:.2f} true"
    return told if own.whole is None else f"{told}, {own.whole:.2f} of the whole model"


def _kl(kl: float, stderr: float | None) -> str:
    digits = _digits(kl)
    told = f"{kl:.{digits}f}"
    return told if stderr is None else f"{told} ± {1.96 * stderr:.{digits}f}"


def _ratio(perplexity: float, dense: float) -> str:
    return f"{_perplexity(perplexity)} ({perplexity / dense:.2f}x)"


def _signed(interval: tuple[float, float]) -> str:
    digits = _digits(max(map(abs, interval)))
    return f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def _digits(kl: float) -> int:
    """Return how many digits tell a divergence: bits cost far less of it than drops."""
    return 4 if kl >= 0.01 or not kl else 6


def _predicted(speedup: float | None) -> str:
    return "not predicted" if speedup is None else _times(speedup)


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"


def _met(report: Report, own: Target) -> str:
    if not (report.met if own.met is None else own.met):
        return "NOT met"
    is_timed = own.kind in ("speedup", "latency", "throughput")
    return "met, by prediction only" if is_timed and report.speedup.measured is None else "met"


def percent(share: float, digits: int = 0) -> str:
    """Write a fraction as a percentage."""
    return f"{100 * share:.{digits}f} %"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.4g}"
