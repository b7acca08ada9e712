"""The laws of the report: what it holds, what it says first, and what it never says."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import ExportError
from autocompress.export import figures, report_words
from autocompress.export.render import read_report, write_report
from autocompress.export.report import (
    Baseline,
    Baselines,
    Bits,
    Correction,
    LayerChoice,
    Loss,
    Recovery,
    Report,
    Sample,
    Speedup,
    Target,
    Verdict,
    verdict,
)
from autocompress.export.report_captions import caption
from autocompress.export.report_html import to_html
from autocompress.export.report_markdown import to_markdown
from autocompress.training.validation import Validation
from tests.export.example_report import example_report

REPORT = example_report()
UNMEASURED = dataclasses.replace(REPORT.speedup, measured=None, measured_interval=None)
DESIGN = {
    "speedup": {"predicted", "predicted_interval", "measured", "measured_interval"},
    "target": {"kind", "value"},
    "latency_model": {"mape", "rank_correlation", "coverage", "held_out"},
    "loss": {"kl", "kl_stderr", "perplexity", "dense_perplexity", "held_out_tokens"},
    "baselines": {"uniform", "additive", "random"},
    "bytes": {"dense", "compressed", "on_disk"},
    "bits": {"nominal", "true"},
    "parameters": {"dense", "compressed"},
    "search": {"trials", "tokens", "seconds", "generations", "stopped_because"},
    "gate": {
        "passed",
        "engine",
        "engine_version",
        "max_logit_difference",
        "bytes_match",
        "answered",
    },
}
SCALARS = {
    "study",
    "model",
    "engine",
    "hardware",
    "workload",
    "met",
    "verdict",
    "versions",
    "seed",
}


def with_loss(report: Report, perplexity: float) -> Report:
    """Return the report with another held-out perplexity."""
    return dataclasses.replace(
        report, loss=dataclasses.replace(report.loss, perplexity=perplexity)
    )


def without_gate(report: Report) -> Report:
    """Return the report with a gate that failed."""
    assert report.gate is not None
    return dataclasses.replace(report, gate=dataclasses.replace(report.gate, passed=False))


def test_json_then_report_is_identity() -> None:
    again = Report.from_json(json.loads(json.dumps(REPORT.to_json())))

    assert again == REPORT


def test_what_was_not_measured_survives_the_round_trip() -> None:
    bare = dataclasses.replace(
        REPORT, latency_model=None, gate=None, sample=None, speedup=Speedup(None, None, None, None)
    )

    assert Report.from_json(json.loads(json.dumps(bare.to_json()))) == bare


@pytest.mark.parametrize("key", sorted(DESIGN))
def test_every_nested_field_of_the_design_is_written(key: str) -> None:
    written = REPORT.to_json()[key]

    assert isinstance(written, dict)
    assert DESIGN[key] <= set(written)


def test_every_field_of_the_design_is_written() -> None:
    assert SCALARS | set(DESIGN) <= set(REPORT.to_json())


def test_all_numbers_that_are_not_finite_are_named() -> None:
    loss = dataclasses.replace(REPORT.loss, kl=math.nan, kl_stderr=math.inf)

    with pytest.raises(ExportError, match=r"loss\.kl is nan; loss\.kl_stderr is inf"):
        dataclasses.replace(REPORT, loss=loss).to_json()


def test_a_json_that_is_not_finite_is_refused() -> None:
    mapping = json.loads(json.dumps(REPORT.to_json()).replace('{"kl": 0.213,', '{"kl": NaN,'))

    with pytest.raises(ExportError, match=r"loss\.kl is 'nan'"):
        Report.from_json(mapping)


def test_missing_and_mistyped_fields_are_all_named() -> None:
    mapping = {**REPORT.to_json(), "seed": "three", "met": 1}
    del mapping["loss"]

    with pytest.raises(ExportError, match="met is '1'; loss is missing; seed is 'three'"):
        Report.from_json(mapping)


def test_a_forged_verdict_is_derived_again() -> None:
    mapping = {**with_loss(REPORT, 1000.0).to_json(), "verdict": "USABLE"}

    assert Report.from_json(mapping).verdict is Verdict.UNUSABLE


@given(
    dense=st.floats(1, 1e6),
    ratio=st.floats(0.5, 1e3),
    floor=st.floats(1.01, 100),
    met=st.booleans(),
)
def test_usable_means_met_and_within_the_floor(
    dense: float, ratio: float, floor: float, met: bool
) -> None:
    judged = verdict(dense * ratio, dense, floor, met)

    assert (judged is Verdict.USABLE) == (met and dense * ratio <= floor * dense)
    assert (judged is Verdict.UNUSABLE) == (dense * ratio > floor * dense)


def test_nan_perplexity_is_never_usable() -> None:
    assert verdict(math.nan, 10.0, 1.3, True) is Verdict.UNUSABLE


def recovered(text_tokens: int = 2_000_000) -> Report:
    """Return the example's report as if its winner had lost twice as much before a training."""
    before = dataclasses.replace(REPORT.loss, kl=0.426, perplexity=30.0)
    history = (Validation(0, 0.44), Validation(150_000, 0.25), Validation(300_000, 0.22))
    recovery = Recovery(300_000, text_tokens, 1e-3, 222.0, before, history)
    return dataclasses.replace(REPORT, recovery=recovery)


def test_a_recovery_tells_what_was_lost_before_and_after() -> None:
    report = recovered()

    rows = dict(report_words.recovery_rows(report))

    assert rows["Recovery"] == (
        "KL 0.4260 ± 0.0118 before, 50 % of it given back; perplexity 1.66x dense before, 1.21x "
        "after"
    )
    assert rows["Trained on"] == "300 k tokens of a text of 2 M, in 4 min"
    assert dict(report_words.recovery_rows(recovered(100_000)))["Trained on"] == (
        "300 k tokens of a text of 100 k, the text 3.0 times, in 4 min"
    )
    assert report_words.recovery_rows(REPORT) == []
    assert rows["Recovery"] in to_html(report)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_simpler_methods_are_held_against_the_search_and_not_its_training() -> None:
    report = recovered()

    names = [row[0] for row in report_words.baseline_rows(report)]
    kls = {row[0]: row[1] for row in report_words.baseline_rows(report)}

    assert names[:2] == ["the same, recovered", "this search"]
    assert kls["this search"].startswith("0.4260")
    assert kls["the same, recovered"].startswith("0.2130")
    assert report.searched == report.recovery.before if report.recovery else False


def test_headline_says_what_was_got() -> None:
    assert report_words.headline(REPORT) == (
        "USABLE: 2.05x faster [2.01, 2.09] measured, perplexity 1.21x dense"
    )


@settings(max_examples=50)
@given(perplexity=st.floats(18, 200), met=st.booleans())
def test_headline_begins_with_the_verdict(perplexity: float, met: bool) -> None:
    target = dataclasses.replace(REPORT.target, met=met)
    report = dataclasses.replace(with_loss(REPORT, perplexity), target=target, met=met)

    assert report_words.headline(report).startswith(f"{report.verdict.value}: ")


def test_headline_of_a_winner_beyond_the_floor_says_both_failures_first() -> None:
    target = dataclasses.replace(REPORT.target, met=False)
    report = dataclasses.replace(with_loss(REPORT, 54.3), target=target, met=False)

    assert report_words.headline(report).split("; ") == [
        "UNUSABLE WITHOUT RECOVERY: perplexity 3.00x dense, above the floor of 1.30x",
        "the target of 2x speed was missed",
        "2.05x faster [2.01, 2.09] measured",
    ]


def test_headline_of_a_failed_gate_is_never_usable() -> None:
    assert report_words.headline(without_gate(REPORT)).startswith("GATE FAILED: ")


def test_a_speedup_that_was_only_predicted_is_called_predicted() -> None:
    report = dataclasses.replace(REPORT, speedup=UNMEASURED)

    said = report_words.headline(report)

    assert "predicted 2.08x faster [1.99, 2.17], not measured" in said
    assert ("Speedup, measured", "not measured") in report_words.essentials(report)
    assert ("Target", "2x speed: met, by prediction only") in report_words.essentials(report)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target("bytes", 8e7), "81.2 MB of 154 MB"),
        (Target("params", 0.5), "53 % of the parameters"),
        (
            Target("bits", 3.5, counted="nominal"),
            "3.40 bits a searched weight (codes alone)",
        ),
        (
            Target("bits", 3.5, counted="stored"),
            "3.45 bits a searched weight (scales, zero points and masks counted)",
        ),
        (
            Target("bits", 3.5, counted="whole"),
            "7.25 bits a weight of the whole model (embeddings and head counted)",
        ),
    ],
)
def test_headline_of_a_size_target_states_the_size(target: Target, said: str) -> None:
    report = dataclasses.replace(REPORT, target=target, bits=Bits(3.4, 3.45, 7.25))

    assert said in report_words.headline(report)


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        ("nominal", "3.5 bits a searched weight (codes alone): met"),
        ("stored", "3.5 bits a searched weight (scales, zero points and masks counted): met"),
        ("whole", "3.5 bits a weight of the whole model (embeddings and head counted): met"),
    ],
)
def test_a_target_in_bits_says_which_are_counted(counted: str, said: str) -> None:
    target = Target("bits", 3.5, met=True, counted=counted)

    rows = dict(report_words.essentials(dataclasses.replace(REPORT, target=target)))

    assert rows["Target"] == said


def test_bits_are_told_as_counted_in_every_way() -> None:
    report = dataclasses.replace(REPORT, bits=Bits(3.4, 3.45, 7.25))

    rows = dict(report_words.essentials(report))

    assert rows["Bits"] == "3.40 nominal, 3.45 true, 7.25 of the whole model"
    assert dict(report_words.essentials(REPORT))["Bits"] == "32.00 nominal, 32.00 true"


def test_of_two_targets_the_missed_one_alone_is_called_missed() -> None:
    report = dataclasses.replace(
        REPORT,
        target=Target("speedup", 2.0, met=True),
        also=(Target("bytes", 7.5e7, met=False),),
        met=False,
    )

    said = report_words.headline(report)

    assert "the target of 75 MB was missed; 81.2 MB of 154 MB, 2.05x faster" in said
    assert [told for name, told in report_words.essentials(report) if name == "Target"] == [
        "2x speed: met",
        "75 MB: NOT met",
    ]
    assert "75 MB: NOT met" in to_html(report)
    assert "75 MB: NOT met" in to_markdown(report)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_two_missed_targets_are_both_named() -> None:
    missed = Target("speedup", 2.5, met=False), Target("params", 0.5, met=False)
    report = dataclasses.replace(REPORT, target=missed[0], also=missed[1:], met=False)

    said = report_words.headline(report)

    assert "the targets of 2.5x speed and 50 % of the parameters were missed" in said


def test_a_size_may_be_met_where_a_speedup_is_met_by_prediction_only() -> None:
    report = dataclasses.replace(
        REPORT,
        target=Target("speedup", 2.0, met=True),
        also=(Target("bytes", 9e7, met=True),),
        speedup=UNMEASURED,
    )

    told = [told for name, told in report_words.essentials(report) if name == "Target"]

    assert told == ["2x speed: met, by prediction only", "90 MB: met"]


@pytest.mark.parametrize(
    ("workload", "first", "further"),
    [
        ("1x128+64", "10 ms, dense 20 ms", "2.5 ms, dense 5 ms"),
        ("1x128+1", "10 ms, dense 20 ms", "not measured"),
        (
            "3*1x128+64,1*decode:8x512+32",
            "1x128+64: 10 ms, dense 20 ms; decode:8x512+32: 100 ms, dense 200 ms",
            "1x128+64: 2.5 ms, dense 5 ms; decode:8x512+32: 3 ms, dense 6 ms",
        ),
    ],
)
def test_both_phases_of_every_workload_are_told_and_read_back(
    workload: str, first: str, further: str
) -> None:
    n = workload.count("x")
    speedup = dataclasses.replace(
        REPORT.speedup,
        first_token=((20.0, 10.0), (200.0, 100.0))[:n],
        further_token=((5.0, 2.5), (6.0, 3.0))[:n],
    )
    report = dataclasses.replace(REPORT, workload=workload, speedup=speedup)

    rows = dict(report_words.essentials(report))

    assert (rows["First token"], rows["Each further token"]) == (first, further)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_throughput_is_told_in_tokens_a_second_and_as_predicted_where_it_is() -> None:
    asked = Target("throughput", 300.0)
    predicted = dataclasses.replace(UNMEASURED, milliseconds_predicted=(400.0, 200.0))
    measured = dataclasses.replace(REPORT.speedup, milliseconds=(320.0, 160.0))

    said = [
        report_words.headline(
            dataclasses.replace(REPORT, target=asked, speedup=speedup, met=speedup is measured)
        )
        for speedup in (predicted, measured)
    ]

    rate = "generated tokens a second, prompts included in the time"
    assert f"300 tokens a second was missed; predicted 320 {rate}, dense 160" in said[0]
    assert said[1].startswith(f"USABLE: 400 {rate}, dense 200, 2.05x faster")


def test_first_line_of_the_markdown_is_the_headline() -> None:
    assert to_markdown(REPORT).splitlines()[0] == f"# {report_words.headline(REPORT)}"


def test_the_page_refers_to_nothing_outside() -> None:
    page = to_html(REPORT)

    assert re.findall(r"https?://|src=|@import|<link|<script", page) == []
    assert set(re.findall(r'href="(.)|url\((.)', page)) <= {("#", ""), ("", "#")}


def test_untrusted_text_never_becomes_markup() -> None:
    attack = "</pre><script>alert(1)</script>\"'`|\n# x ![i](h)"
    report = dataclasses.replace(
        example_report(study=attack),
        model=attack,
        hardware=attack,
        command=attack,
        warnings=(attack,),
        sample=Sample(attack, attack, attack),
        versions={attack: attack},
    )

    assert "<script" not in to_html(report)
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", to_markdown(report))
    assert re.search(r"(?<!\\)<script|(?m:^# x)|(?<!\\)\]\(h", outside.split("\n", 1)[1]) is None


def test_ids_of_a_page_are_unique() -> None:
    ids = re.findall(r' id="([^"]+)"', to_html(REPORT))

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", sorted(figures.FIGURES))
def test_figures_are_deterministic(name: str) -> None:
    first, second = (figures.to_svg(figures.FIGURES[name](REPORT), name, "x") for _ in range(2))

    assert first == second
    assert first.startswith("<svg")


@pytest.mark.parametrize("n_layers", [0, 1, 12, 80])
def test_every_depth_can_be_drawn(n_layers: int) -> None:
    drawn = figures.to_svg(figures.layer_map(example_report(n_layers)), "map", "x")

    assert "attention".title() in drawn


def test_the_baselines_caption_claims_only_what_the_paired_test_shows() -> None:
    uniform, additive, random = (
        Baseline(0.3, 20.0, 0.01, difference) for difference in ((-0.1, 0.1), (-0.2, -0.1), None)
    )
    report = dataclasses.replace(REPORT, baselines=Baselines(uniform, additive, random))

    assert caption(report, "baselines") == (
        "At the same target, this search is WORSE than additive; not distinguishable from "
        "uniform; not tested against random (paired by sequence, 95 %)."
    )


def test_a_search_that_gained_nothing_says_so() -> None:
    report = dataclasses.replace(REPORT, history=(REPORT.history[-1],) * 2)

    assert "found nothing better than its start" in caption(report, "loss_history")


def test_a_report_without_material_has_no_figures() -> None:
    bare = dataclasses.replace(
        REPORT,
        latency_model=None,
        layer_map=(),
        history=(),
        baselines=dataclasses.replace(REPORT.baselines, uniform=None, additive=None, random=None),
    )

    assert figures.available(bare) == []
    assert "<svg" not in to_html(bare)


def test_a_png_is_written(tmp_path: Path) -> None:
    figures.write_png(figures.baselines(REPORT), tmp_path / "b.png", 50)

    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_the_layer_map_counts_what_is_done() -> None:
    layers = (
        LayerChoice(0, "drop", "width 2/4", 0.0, 0.5),
        LayerChoice(1, "w4g128 dense", "width 2/4, w4g128 w3g128", 0.6, 0.1),
        LayerChoice(2, "kv8", "dense", 1.0, 1.0),
    )

    told = caption(dataclasses.replace(REPORT, layer_map=layers), "layer_map")

    assert told == (
        "Of 3 layers, 1 attention block is dropped and 0 narrowed, 2 stored in fewer bits; 0 MLP "
        "blocks are dropped and 2 narrowed, 1 stored in fewer bits. Height is the share of the "
        "bytes kept."
    )


def test_a_correction_says_what_was_missed() -> None:
    speed = Correction(2.0, 2.1, 1.9, (1.8, 2.0))
    memory = Correction(4e9, 3.8e9, 4.2e9, (4.2e9, 4.2e9), "memory")

    rows = report_words.method_rows(dataclasses.replace(REPORT, corrections=(speed, memory)))

    first, second = (told for name, told in rows if name == "Correction")
    assert first == "asked 2.00x, measured 1.90x [1.80, 2.00]; then searched for 2.10x"
    assert second == (
        "asked 4,000,000,000 bytes of memory, measured 4,200,000,000; then searched for "
        "3,800,000,000"
    )


def test_a_checkpoint_is_loaded_as_its_engine_does() -> None:
    served = dataclasses.replace(REPORT, engine="vllm", needs_remote_code=False)

    assert report_words.snippet(served) == 'from vllm import LLM\n\nmodel = LLM("model")\n'


def test_remote_code_is_trusted_only_where_it_is_needed() -> None:
    plain = dataclasses.replace(REPORT, needs_remote_code=False)

    assert "trust_remote_code=True" in report_words.snippet(REPORT)
    assert "trust_remote_code" not in to_html(plain)


def test_written_report_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path / "out")
    write_report(REPORT, tmp_path / "out")

    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["report.html", "report.json", "report.md"]
    assert read_report(tmp_path / "out" / "report.json") == REPORT


def test_a_report_that_is_refused_leaves_the_last_one(tmp_path: Path) -> None:
    write_report(REPORT, tmp_path)
    loss = Loss(math.nan, None, 20.0, 18.0, 10)

    with pytest.raises(ExportError, match=r"loss\.kl is nan"):
        write_report(dataclasses.replace(REPORT, loss=loss), tmp_path)

    assert read_report(tmp_path / "report.json") == REPORT


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ExportError, match=r"^Cannot write .*report\.json: .*\.$"):
        write_report(REPORT, tmp_path / "file")
