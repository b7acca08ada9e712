"""The whole path on a tiny model: search, gate, report; kills, resumes, pools and processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from autocompress.export.gguf_file import read_gguf
from autocompress.models.loading import lacks_bfloat16
from autocompress.pipeline.latency import SAMPLES
from autocompress.store.study_store import list_studies, open_study
from autocompress.trial import Fidelity, Genotype
from tests.gguf_files import need_llama_cpp
from tests.search.synthetic import strategy_named
from tests.tiny_models import make_config, write_model
from tests.vllm_player import STAND_IN, put_on_path
from tests.workers.clusters import ENVIRONMENT, running_cluster

# Whole searches: on a busy machine each may take minutes.
pytestmark = pytest.mark.timeout(600)

FIELDS = {
    "study", "model", "engine", "hardware", "workload", "target", "met", "verdict", "speedup",
    "latency_model", "loss", "baselines", "bytes", "bits", "parameters", "search", "gate",
    "versions", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A search that the clock cannot change: an imported latency table, an end by tokens."""

    folder: Path
    flags: tuple[str, ...]

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder}/studies.db"

    def command(self, verb: str, study: str, *more: str) -> list[str]:
        own = ["search", *self.flags, f"--study={study}"] if verb == "search" else [verb, study]
        where = [f"--storage={self.storage}", f"--output={self.folder / study}"]
        return [sys.executable, "-m", "autocompress", *own, *where, *more]

    def start(self, verb: str, study: str, *more: str) -> "subprocess.Popen[str]":
        environment = os.environ | {"AUTOCOMPRESS_CACHE": str(self.folder / "cache")}
        return subprocess.Popen(
            self.command(verb, study, *more),
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, verb: str, study: str, *more: str) -> tuple[str, str]:
        process = self.start(verb, study, *more)
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        return output, errors

    def winner(self, study: str) -> Sequence[int]:
        recipe = yaml.safe_load((self.folder / study / "recipe.yaml").read_text("utf-8"))
        levels: Sequence[int] = recipe["genotype"]
        return levels

    def shards(self, study: str) -> dict[tuple[Genotype, Fidelity], object]:
        store = open_study(self.storage, study)
        found = {key: record.measurement for key, record in store.measurements().items()}
        store.close()
        return dict(found)


def wait_until_measured(job: Job, study: str, shards: int) -> None:
    """Wait until a search has measured so many shards."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        rows = [row for row in list_studies(job.storage) if row.name == study]
        if rows and len(job.shards(study)) >= shards:
            break
        time.sleep(0.02)


def kill_at(job: Job, study: str, shards: int, *flags: str) -> None:
    """Start a search and kill it when it has measured so many shards."""
    process = job.start("search", study, *flags)
    wait_until_measured(job, study, shards)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def job(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_llama: Path,
    tiny_table: Path,
    calibration: Path,
) -> Job:
    return Job(
        tmp_path_factory.mktemp("job"),
        (
            str(tiny_llama),
            "--target-speedup=1.5x",
            f"--latency-table={tiny_table}",
            "--workload=1x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=40000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )


@pytest.fixture(scope="module")
def undisturbed(job: Job) -> tuple[str, str]:
    """The outputs of one search that nobody touched; its study is `undisturbed`."""
    return job.run("search", "undisturbed")


def test_search_leaves_a_whole_report(job: Job, undisturbed: tuple[str, str]) -> None:
    report = json.loads((job.folder / "undisturbed" / "report.json").read_text("utf-8"))

    assert report.keys() >= FIELDS
    assert report["gate"]["passed"] is True
    # A limit is met up to the rounding of sums.
    assert report["speedup"]["predicted"] >= 1.5 * (1 - 1e-9)
    assert report["parameters"]["compressed"] < report["parameters"]["dense"]
    for name in ("report.md", "report.html", "recipe.yaml", "model/config.json"):
        assert (job.folder / "undisturbed" / name).is_file()


def test_search_ends_no_worse_than_its_baselines(job: Job, undisturbed: tuple[str, str]) -> None:
    report = json.loads((job.folder / "undisturbed" / "report.json").read_text("utf-8"))

    for baseline in report["baselines"].values():
        assert report["loss"]["kl"] <= 1.1 * baseline["kl"]


def test_search_tells_how_busy_its_workers_were(undisturbed: tuple[str, str]) -> None:
    # On a busy machine one of the two may have done all before the other had its model.
    assert re.search(r"^[12] workers, busy \d+% to \d+% of the search$", undisturbed[0], re.M)


def test_checkpoint_answers_in_a_process_that_knows_nothing_of_us(
    job: Job, undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    script = (
        "import sys, torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "m = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(m.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, pad_token_id=0).shape[1])\n"
        "assert not any(name.startswith('autocompress') for name in sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, str(job.folder / "undisturbed" / "model")],
        cwd=tmp_path,
        env=os.environ | {"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "8"


def test_scratch_folders_are_gone(job: Job, undisturbed: tuple[str, str]) -> None:
    assert not list(job.folder.glob(".autocompress-*"))


def test_studies_and_report_know_the_study(job: Job, undisturbed: tuple[str, str]) -> None:
    where = f"--storage={job.storage}"
    base = [sys.executable, "-m", "autocompress"]
    listed = subprocess.run([*base, "studies", where], capture_output=True, text=True, check=True)
    printed = subprocess.run(
        [*base, "report", "undisturbed", where], capture_output=True, text=True, check=True
    )

    assert "undisturbed" in listed.stdout
    assert "finished" in listed.stdout
    assert printed.stdout == (job.folder / "undisturbed" / "report.md").read_text("utf-8")


def test_pareto_tells_and_writes_the_front_of_the_study(
    job: Job, undisturbed: tuple[str, str], tmp_path: Path
) -> None:
    command = job.command("pareto", "undisturbed", f"--output={tmp_path}")
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    front = json.loads((tmp_path / "pareto.json").read_text("utf-8"))
    assert printed.startswith("Pareto front of study undisturbed (finished): ")
    assert all(member["genotype"] in printed for member in front["members"])
    assert {member["sequences"] >= front["least_sequences"] for member in front["members"]} == {
        True
    }
    assert (tmp_path / "pareto.html").is_file()


def test_retarget_predicts_from_the_store_alone(job: Job, undisturbed: tuple[str, str]) -> None:
    target = "--target-speedup=1.3x"
    before = job.shards("undisturbed")

    told, _ = job.run("retarget", "undisturbed", target)
    as_json, _ = job.run("retarget", "undisturbed", target, "--json")

    found = json.loads(as_json)
    assert told.startswith("PREDICTED, nothing measured: 1.")
    assert found["measured"] is False
    # A limit is met up to the rounding of sums.
    assert found["speedup"]["predicted"] >= 1.3 * (1 - 1e-9)
    assert job.shards("undisturbed") == before


@pytest.mark.slow
def test_refine_measures_what_was_predicted(job: Job, undisturbed: tuple[str, str]) -> None:
    inherited = set(job.shards("undisturbed"))

    job.run(
        "retarget",
        "undisturbed",
        "--target-speedup=1.3x",
        "--refine",
        "--new-study=refined",
        f"--output={job.folder / 'refined'}",
    )

    report = json.loads((job.folder / "refined" / "report.json").read_text("utf-8"))
    assert report["gate"]["passed"] is True
    assert (report["target"]["kind"], report["target"]["value"]) == ("speedup", 1.3)
    assert not inherited & set(job.shards("refined"))


@pytest.mark.slow
def test_a_winner_is_trained_and_a_kill_on_the_way_changes_nothing(
    job: Job, undisturbed: tuple[str, str]
) -> None:
    flags = ("--recover=30k", "--recovery-rate=3e-3")
    process = job.start("search", "cut", *flags)
    assert process.stdout is not None
    while "recovery" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    job.run("resume", "cut")
    shutil.rmtree(job.folder / "cache" / "recovered")
    said, _ = job.run("search", "trained", *flags)

    report = report_of(job, "trained")
    recovery = report["recovery"]
    assert "trained on" in said
    assert report["gate"]["passed"] is True
    assert report["loss"]["kl"] < recovery["before"]["kl"]
    assert recovery["before"]["kl"] == report_of(job, "undisturbed")["loss"]["kl"]
    assert recovery["history"][0]["tokens"] == 0 < recovery["tokens"] <= 30_000
    assert "--recover 30000 --recovery-rate 0.003" in report["command"]
    assert contents(job.folder / "cut" / "model") == contents(job.folder / "trained" / "model") | {
        "manifest.json": (job.folder / "cut" / "model" / "manifest.json").read_bytes()
    }


@pytest.mark.slow
def test_a_winner_is_picked_by_what_its_training_gives_back(job: Job) -> None:
    flags = (
        "--strategy=darwin",
        "--recover=5k",
        "--space=depth,width",
        "--darwin-rungs=128:4:2,512:8:1",
        "--darwin-generations=2",
    )

    job.run("search", "darwin", *flags)
    shards = job.shards("darwin")
    job.run("resume", "darwin")

    report = report_of(job, "darwin")
    assert report["gate"]["passed"] is True
    assert report["loss"]["kl"] < report["recovery"]["before"]["kl"]
    assert "--darwin-rungs 128:4:2,512:8:1 --darwin-generations 2" in report["command"]
    # All is known: a training is as exact to repeat as a reading.
    assert job.shards("darwin") == shards


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.85])
def test_killed_search_resumes_to_the_same_winner_and_trials(
    job: Job, undisturbed: tuple[str, str], share: float
) -> None:
    study = f"killed-{share}"
    kill_at(job, study, int(share * len(job.shards("undisturbed"))))
    before = job.shards(study)

    job.run("resume", study)

    assert before
    assert job.winner(study) == job.winner("undisturbed")
    assert job.shards(study) == job.shards("undisturbed")
    assert before.items() <= job.shards(study).items()


@pytest.mark.slow
@pytest.mark.parametrize("name", [strategy_named("bayes"), strategy_named("bayes-tpe")])
def test_a_bayesian_search_killed_among_more_workers_ends_as_undisturbed(
    job: Job, name: str
) -> None:
    whole, killed, strategy = f"{name}-whole", f"{name}-killed", f"--strategy={name}"
    job.run("search", whole, strategy)
    kill_at(job, killed, len(job.shards(whole)) // 2, strategy, "--workers=3")

    job.run("resume", killed)

    assert job.winner(killed) == job.winner(whole)
    assert job.shards(killed) == job.shards(whole)


@pytest.mark.slow
def test_finished_study_is_written_out_again(job: Job) -> None:
    job.run("search", "again")
    first = contents(job.folder / "again" / "model")
    shutil.rmtree(job.folder / "again")

    job.run("resume", "again")

    assert contents(job.folder / "again" / "model") == first


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--workers=1",), ("--workers=3",), ("--pool=ray",)])
def test_workers_and_pools_do_not_change_the_search(
    job: Job, undisturbed: tuple[str, str], flags: tuple[str, ...]
) -> None:
    study = "pool" + flags[0].replace("=", "-")

    job.run("search", study, *flags)

    assert job.winner(study) == job.winner("undisturbed")
    assert job.shards(study) == job.shards("undisturbed")


@pytest.mark.slow
def test_a_node_lost_in_mid_search_changes_nothing(
    job: Job, undisturbed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with running_cluster("1,0", "1,0") as cluster:
        flags = ("--pool=ray", f"--address={cluster.address}")
        process = job.start("search", "lost-node", *flags)
        wait_until_measured(job, "lost-node", len(job.shards("undisturbed")) // 3)

        cluster.lose(1)
        _, errors = process.communicate(timeout=300)

    assert process.returncode == 0, errors
    assert job.winner("lost-node") == job.winner("undisturbed")
    assert job.shards("lost-node") == job.shards("undisturbed")


@pytest.mark.slow
def test_interrupted_search_says_how_to_go_on(job: Job, undisturbed: tuple[str, str]) -> None:
    process = job.start("search", "interrupted")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if any(row.name == "interrupted" and row.n_trials for row in list_studies(job.storage)):
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "autocompress resume" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_profile_writes_a_table_that_a_search_imports(
    job: Job, tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.json"
    common = [str(tiny_llama), "--workload=1x8+4", f"--calibration={calibration}", "--context=16"]
    subprocess.run(
        [
            *(sys.executable, "-m", "autocompress", "profile", *common),
            *(f"--output={table}", f"--storage=sqlite:///{tmp_path}/profiles.db"),
        ],
        check=True,
        env=os.environ | {"AUTOCOMPRESS_CACHE": str(job.folder / "cache")},
        capture_output=True,
    )

    values = json.loads(table.read_text("utf-8"))

    assert values["workload"] == "1x8+4"
    (own,) = values["tables"]
    assert {row["kind"] for row in own["rows"]} == {"attention", "mlp"}
    assert len(own["samples"]) == SAMPLES


@pytest.mark.slow
def test_a_model_streamed_from_its_checkpoint_is_searched_alike(
    job: Job, undisturbed: tuple[str, str]
) -> None:
    job.run("search", "streamed", "--weights-bytes=20KB")

    assert job.winner("streamed") == job.winner("undisturbed")
    assert job.shards("streamed") == job.shards("undisturbed")


@pytest.mark.slow
def test_nodes_without_a_common_disk_build_levels_once(
    job: Job, undisturbed: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_SHARED_LEVELS", f"file://{tmp_path}/shared")
    first, second = Job(tmp_path / "first", job.flags), Job(tmp_path / "second", job.flags)

    first.run("search", "study")
    built = {file: file.stat().st_mtime_ns for file in (tmp_path / "shared").rglob("*.*")}
    second.run("search", "study")

    assert built == {file: file.stat().st_mtime_ns for file in (tmp_path / "shared").rglob("*.*")}
    names = {file.name for file in built}
    for own in (first, second):
        assert {file.name for file in (own.folder / "cache" / "levels").rglob("*.*")} == names
        assert own.winner("study") == job.winner("undisturbed")
        assert own.shards("study") == job.shards("undisturbed")


@pytest.mark.slow
def test_a_data_free_start_leads_to_a_checkpoint_that_passes_the_gate(job: Job) -> None:
    job.run("search", "data-free", "--warm-start=weights")

    report = json.loads((job.folder / "data-free" / "report.json").read_text("utf-8"))
    assert report["gate"]["passed"] is True
    assert "--warm-start weights" in report["command"]


def stored(job: Job, tiny_llama: Path, calibration: Path) -> Job:
    """Return a job without a target."""
    flags = (
        str(tiny_llama),
        "--workload=1x8+4",
        f"--calibration={calibration}",
        "--context=48",
        "--max-tokens=60000",
        "--timing-processes=2",
        "--workers=2",
    )
    return Job(job.folder, flags)


def report_of(job: Job, study: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.folder / study / "report.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def coded(job: Job, tiny_llama: Path, calibration: Path) -> Job:
    """A job whose study `bits` is finished."""
    own = stored(job, tiny_llama, calibration)
    own.run("search", "bits", "--target-bits=3.5", "--bits=8,4,2")
    return own


def test_a_target_in_bits_is_met_by_the_file(coded: Job) -> None:
    report = report_of(coded, "bits")

    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["target"] == {"kind": "bits", "value": 3.5, "met": True, "counted": "nominal"}
    assert 3.0 < report["bits"]["nominal"] <= 3.5 < report["bits"]["true"] < 5.0
    assert report["latency_model"] is None
    assert report["speedup"]["predicted"] is None
    assert report["speedup"]["measured"] > 0
    assert report["loss"]["kl"] <= 1.05 * report["baselines"]["additive"]["kl"]
    assert report["parameters"]["compressed"] == report["parameters"]["dense"]
    assert report["bytes"]["compressed"] < report["bytes"]["dense"]


def test_a_study_of_bits_answers_another_size(coded: Job) -> None:
    before = coded.shards("bits")

    told, _ = coded.run("retarget", "bits", "--target-bits=4.5")
    as_json, _ = coded.run("retarget", "bits", "--target-bytes=75%", "--target-bits=4", "--json")
    listed, _ = coded.run("pareto", "bits", "--by=bytes")

    found = json.loads(as_json)
    report = report_of(coded, "bits")
    assert told.startswith("PREDICTED, nothing measured: KL ")
    assert [target["kind"] for target in found["targets"]] == ["bytes", "bits"]
    assert found["speedup"] is None
    assert found["bytes"] <= 0.75 * report["bytes"]["dense"]
    assert 3.0 < found["bits"]["nominal"] <= 4 + 1e-9 < found["bits"]["stored"]
    assert f"{report['bytes']['compressed']:,}" in listed
    assert coded.shards("bits") == before


def test_a_roofline_is_met_by_prediction_and_never_called_measured(
    job: Job, tiny_llama: Path, calibration: Path
) -> None:
    own = stored(job, tiny_llama, calibration)
    flags = ("--target-speedup=1.5x", "--engine=roofline:h100", "--space=depth,width,bits")

    printed, _ = own.run("search", "reckoned", *flags, "--bits=8,4")
    told, _ = own.run("retarget", "reckoned", "--target-speedup=1.3x")
    front, _ = own.run("pareto", "reckoned")

    report = report_of(own, "reckoned")
    speedup = report["speedup"]
    assert "both predicted for NVIDIA H100" in printed
    assert "predicted 1.5" in printed.splitlines()[-2]
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["engine"] == "roofline:h100"
    assert report["hardware"] == "NVIDIA H100 SXM 80 GB, which is not here"
    assert report["latency_model"] is None
    assert speedup["measured"] is speedup["milliseconds"] is None
    assert 1.5 <= speedup["predicted"] + 1e-9 < 1.6
    assert report["warnings"][0].startswith("Nothing was timed.")
    markdown = (own.folder / "reckoned" / "report.md").read_text("utf-8")
    assert "met, by prediction only" in markdown
    assert told.startswith("PREDICTED, nothing measured: 1.3")
    assert "from its peak rates: no time was measured" in front


@pytest.mark.slow
@pytest.mark.parametrize("target", ["--target-bytes=80%", "--target-bits=4.5"])
def test_refine_of_a_size_keeps_what_was_measured(coded: Job, target: str) -> None:
    inherited = set(coded.shards("bits"))
    study = f"refined{target.partition('=')[2]}"

    output = coded.folder / study
    coded.run("retarget", "bits", target, "--refine", f"--new-study={study}", f"--output={output}")

    report = report_of(coded, study)
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert not inherited & set(coded.shards(study))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "flags"),
    [
        ("sparse", ("--target-params=85%", "--space=sparsity", "--sparsities=0.25,0.5,2:4")),
        ("blocks", ("--target-bytes=80%", "--bits=fp8,4", "--quantizer=round-to-nearest")),
        ("joint", ("--target-bytes=70%", "--space=depth,width,bits", "--bits=8,4")),
        ("two", ("--target-bytes=90%", "--target-params=95%", "--space=depth,width,bits")),
        ("single", ("--target-bits=4", "--bits=8,4,2", "--per-linear", "--symmetric")),
        ("counted", ("--target-bits=24", "--counted-bits=whole", "--bits=8,4")),
        ("upstream", ("--target-bits=4", "--bits=8,4,2", "--upstream=4")),
        (
            "formula",
            (
                "--target-params=85%",
                "--space=sparsity",
                "--sparsities=0.5",
                "--sparsity-step=512",
                "--pruner=abs(W) * X",
            ),
        ),
    ],
)
def test_what_is_promised_is_recomputed_from_the_written_file(
    job: Job, tiny_llama: Path, calibration: Path, study: str, flags: tuple[str, ...]
) -> None:
    own = stored(job, tiny_llama, calibration)

    own.run("search", study, *flags)

    report = report_of(own, study)
    assert report["met"] is True
    assert [own["met"] for own in (report["target"], *report["also"])].count(True) == sum(
        flag.startswith("--target") for flag in flags
    )
    assert report["gate"]["passed"] is True
    assert 0 < report["bits"]["whole"] < 32
    assert all(flag.partition("=")[0] in report["command"] for flag in flags)


@pytest.mark.slow
def test_a_killed_search_over_bits_ends_with_the_same_winner(
    job: Job, tiny_llama: Path, calibration: Path
) -> None:
    own = stored(job, tiny_llama, calibration)
    flags = ("--target-bits=3", "--bits=8,4,2")
    own.run("search", "bits-whole", *flags)
    kill_at(own, "bits-cut", len(own.shards("bits-whole")) // 2, *flags)

    own.run("resume", "bits-cut")

    assert own.winner("bits-cut") == own.winner("bits-whole")
    assert own.shards("bits-cut") == own.shards("bits-whole")


@pytest.mark.slow
def test_a_target_in_memory_is_met_by_the_process_that_serves(
    calibration: Path, tmp_path: Path
) -> None:
    config = make_config()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 2048, 6
    write_model(tmp_path / "wide", config)
    own = Job(
        tmp_path,
        (
            str(tmp_path / "wide"),
            "--target-memory=75%",
            "--space=depth",
            "--workload=2x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "memory")
    told, _ = own.run("retarget", "memory", "--target-memory=80%")

    report = report_of(own, "memory")
    memory = report["memory"]
    assert report["met"] is True
    assert memory["compressed"] <= 0.75 * memory["dense"]
    assert report["target"]["kind"] == "memory"
    assert report["target"]["value"] == pytest.approx(0.75 * memory["dense"])
    lost = report["bytes"]["dense"] - report["bytes"]["compressed"]
    assert memory["dense"] - memory["compressed"] == pytest.approx(lost, rel=0.1)
    assert "--target-memory 75" in report["command"]
    assert told.startswith("PREDICTED, nothing measured: KL")


@pytest.mark.slow
def test_bits_alone_meet_a_speedup_and_a_memory_on_kernels_that_read_codes(
    calibration: Path, tmp_path: Path
) -> None:
    if lacks_bfloat16(torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16, which torch's kernels for codes need")
    config = make_config()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 2048, 3
    write_model(tmp_path / "wide", config, torch.bfloat16)
    own = Job(
        tmp_path,
        (
            str(tmp_path / "wide"),
            "--target-speedup=1.1x",
            "--target-memory=80%",
            "--space=bits",
            "--quantizer=round-to-nearest",
            "--workload=decode:1x8+8",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "codes")

    report = report_of(own, "codes")
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["speedup"]["measured_interval"][0] >= 1.1
    assert report["memory"]["compressed"] <= 0.8 * report["memory"]["dense"]
    assert not any("has no kernel" in warning for warning in report["warnings"])
    recipe = yaml.safe_load((tmp_path / "codes" / "recipe.yaml").read_text("utf-8"))
    said = {
        name
        for layer in recipe["layers"].values()
        for own in layer.values()
        for name in own.split()
    }
    assert said - {"dense"}
    assert said <= {"dense", "w8sym", "w4g128", "w3g128", "w2g128"}


def verified(folder: Path) -> str:
    """Return what `autocompress verify` says of a folder that it accepts."""
    command = [sys.executable, "-m", "autocompress", "verify", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_a_search_in_compressed_tensors_ends_in_what_stock_transformers_loads(
    calibration: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "tiny", make_config())
    own = Job(
        tmp_path,
        (
            str(tmp_path / "tiny"),
            "--format=compressed-tensors",
            "--space=depth,bits",
            "--target-bytes=60%",
            "--bits=8,4,3",
            "--group-size=16",
            "--workload=1x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "served")

    report = json.loads((tmp_path / "served" / "report.json").read_text("utf-8"))
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["needs_remote_code"] is False
    assert report["bytes"]["compressed"] <= 0.6 * report["bytes"]["dense"]
    assert "--format compressed-tensors" in report["command"]
    assert "--symmetric" not in report["command"]
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "served" / "model")
    assert type(stock).__name__ == "LlamaForCausalLM"
    assert "Opened by transformers" in verified(tmp_path / "served")


@pytest.mark.slow
def test_a_front_has_a_winner_and_each_of_its_points_can_be_published(coded: Job) -> None:
    coded.run("search", "front", "--strategy=pareto", "--target-bits=4", "--bits=8,4,2")
    coded.run("pareto", "front")
    front = json.loads((coded.folder / "front" / "pareto.json").read_text("utf-8"))
    point = next(own for own in front["members"] if own["value"] < 8)

    where = f"--output={coded.folder / 'point'}"
    coded.run("export", "front", f"--point={point['genotype']}", "--new-study=point", where)

    winner, published = report_of(coded, "front"), report_of(coded, "point")
    assert (winner["met"], published["met"]) == (True, True)
    assert published["gate"]["passed"] is True
    assert 0 < front["hypervolume"]["share"] < 1
    assert point["value"] > winner["bits"]["nominal"]
    assert published["bits"]["nominal"] == pytest.approx(point["value"])
    assert coded.winner("point") == point["levels"]


@pytest.mark.slow
def test_a_recipe_is_measured_and_published_in_another_format(job: Job, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("layers: {1: {attention: drop}, 2: {mlp: drop}}\n", encoding="utf-8")
    flags = [flag for flag in job.flags if not flag.startswith(("--latency", "--target", "--sp"))]
    own = Job(tmp_path, (*flags, "--space=depth", "--target-params=95%"))

    own.run("search", "again", f"--start={recipe}", "--strategy=given", "--format=decilm")
    own.run("search", "on", f"--start={recipe}")

    report = report_of(own, "again")
    said = yaml.safe_load((tmp_path / "again" / "recipe.yaml").read_text("utf-8"))["layers"]
    gone = {(layer, kind) for layer, both in said.items() for kind in both if both[kind] == "drop"}
    assert gone == {(1, "attention"), (2, "mlp")}
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert f"--start {recipe}" in report["command"]
    config = json.loads((tmp_path / "again" / "model" / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert "Opened by transformers" in verified(tmp_path / "again")
    own.run("export", "again", "--format=hf", f"--output={tmp_path / 'again-hf'}")
    told = yaml.safe_load((tmp_path / "again-hf" / "recipe.yaml").read_text("utf-8"))
    assert told["layers"] == said
    assert report_of(own, "again-hf")["loss"] == report["loss"]
    plain = (tmp_path / "again-hf" / "model" / "config.json").read_text("utf-8")
    assert json.loads(plain)["per_layer_config"] == {
        "1": {"skip": ["attention"]},
        "2": {"skip": ["mlp"]},
    }
    refused = own.start("export", "again", "--format=compressed-tensors")
    assert (
        "the space does not hold attention drop, mlp dense in layer 1" in refused.communicate()[1]
    )
    assert refused.returncode == 2
    with contextlib.closing(open_study(own.storage, "on")) as store:
        assert store.document("start") == {"levels": [list(own.winner("again-hf"))]}
    # Exported, read back and exported again, it is the same.
    written = f"--start={tmp_path / 'again' / 'recipe.yaml'}"
    own.run("search", "twice", written, "--strategy=given", "--format=decilm")
    for file in ("config.json", "model.safetensors"):
        both = [(tmp_path / name / "model" / file).read_bytes() for name in ("again", "twice")]
        assert both[0] == both[1]


@pytest.mark.slow
def test_a_search_for_vllm_ends_in_what_it_reads_as_searched(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    put_on_path(tmp_path / "bin", STAND_IN, monkeypatch)
    write_model(tmp_path / "tiny", make_config())
    own = Job(
        tmp_path,
        (
            str(tmp_path / "tiny"),
            "--engine=vllm",
            "--space=depth,bits",
            "--target-bytes=60%",
            "--group-size=16",
            "--workload=1x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "served")

    report = json.loads((tmp_path / "served" / "report.json").read_text("utf-8"))
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["gate"]["engine"] == "vLLM"
    assert report["gate"]["engine_version"].startswith("0.0.0+stand.in, after transformers")
    assert report["gate"]["perplexity"] == pytest.approx(report["loss"]["perplexity"], rel=0.01)
    assert report["speedup"]["measured"] > 0
    assert report["memory"] is None
    assert "--engine vllm" in report["command"]
    assert "--format" not in report["command"]
    assert "Opened by transformers" in verified(tmp_path / "served")


@pytest.mark.slow
def test_a_profile_for_vllm_times_models_with_layers_gone(
    calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    put_on_path(tmp_path / "bin", STAND_IN, monkeypatch)
    write_model(tmp_path / "tiny", make_config())
    flags = (
        str(tmp_path / "tiny"),
        "--engine=vllm",
        "--target-speedup=1.1x",
        "--space=depth",
        "--workload=1x8+4",
        f"--calibration={calibration}",
        "--context=16",
    )
    table = tmp_path / "table.json"
    command = [sys.executable, "-m", "autocompress", "profile", *flags, f"--output={table}"]
    storage = f"--storage=sqlite:///{tmp_path}/studies.db"

    subprocess.run([*command, storage], check=True, capture_output=True, timeout=500)

    (own,) = json.loads(table.read_text("utf-8"))["tables"]
    assert own["engine"] == "vllm"
    assert {row["kind"] for row in own["rows"]} == {"layer"}
    assert len(own["samples"]) == SAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "llama.cpp"])
def test_whole_layers_leave_a_model_that_is_only_shorter(
    engine: str, calibration: Path, tmp_path: Path
) -> None:
    if engine == "llama.cpp":
        need_llama_cpp()
    write_model(tmp_path / "tiny", make_config())
    own = Job(
        tmp_path,
        (
            str(tmp_path / "tiny"),
            f"--engine={engine}",
            "--space=depth",
            "--whole-layers",
            "--target-params=75%",
            "--workload=1x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "short")

    report = json.loads((tmp_path / "short" / "report.json").read_text("utf-8"))
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["gate"]["engine"] == {"torch": "transformers"}.get(engine, engine)
    recipe = yaml.safe_load((tmp_path / "short" / "recipe.yaml").read_text("utf-8"))
    said = [tuple(layer.values()) for layer in recipe["layers"].values()]
    assert set(said) == {("dense", "dense"), ("drop", "drop")}
    if engine == "torch":
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "short" / "model")
        assert type(stock).__name__ == "LlamaForCausalLM"
        assert len(stock.model.layers) == said.count(("dense", "dense"))


@pytest.mark.slow
def test_a_winner_of_whole_layers_goes_to_llama_cpp_and_back(job: Job, tmp_path: Path) -> None:
    need_llama_cpp()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("layers: {1: {attention: drop, mlp: drop}}\n", encoding="utf-8")
    flags = [flag for flag in job.flags if not flag.startswith(("--latency", "--target", "--sp"))]
    own = Job(tmp_path, (*flags, "--space=depth", "--whole-layers", "--target-params=95%"))
    own.run("search", "one", f"--start={recipe}", "--strategy=given")

    for study, form in (("one", "gguf"), ("one-gguf", "hf")):
        name = f"{study}-{form}"
        own.run("export", study, f"--format={form}", f"--output={tmp_path / name}")

        assert report_of(own, name)["gate"]["passed"] is True
        told = yaml.safe_load((tmp_path / name / "recipe.yaml").read_text("utf-8"))["layers"]
        gone = {layer for layer, both in told.items() if set(both.values()) == {"drop"}}
        assert gone == {1}
    assert report_of(own, "one-gguf")["gate"]["engine"] == "llama.cpp"
    assert report_of(own, "one-gguf-hf")["loss"] == report_of(own, "one")["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("embeddings", ["f16", "q8_0"])
def test_a_search_for_llama_cpp_ends_in_a_file_that_it_runs(
    calibration: Path, tmp_path: Path, embeddings: str
) -> None:
    need_llama_cpp()
    config = make_config()
    config.intermediate_size = 64  # whole blocks of 32
    write_model(tmp_path / "tiny", config)
    own = Job(
        tmp_path,
        (
            str(tmp_path / "tiny"),
            "--engine=llama.cpp",
            f"--embeddings={embeddings}",
            "--target-bytes=60%",
            "--workload=1x8+4",
            f"--calibration={calibration}",
            "--context=16",
            "--max-tokens=20000",
            "--timing-processes=2",
            "--workers=2",
        ),
    )

    own.run("search", "gguf")

    report = json.loads((tmp_path / "gguf" / "report.json").read_text("utf-8"))
    assert report["met"] is True
    assert report["gate"]["passed"] is True
    assert report["gate"]["engine"] == "llama.cpp"
    assert report["gate"]["perplexity"] == pytest.approx(report["loss"]["perplexity"], rel=0.01)
    assert report["checkpoint"] == "model/tiny.gguf"
    assert "--engine llama.cpp" in report["command"]
    assert ("--embeddings q8_0" in report["command"]) == (embeddings == "q8_0")
    stored = read_gguf(tmp_path / "gguf" / report["checkpoint"])
    assert stored.bytes == report["bytes"]["compressed"] <= 0.6 * report["bytes"]["dense"]
    recipe = yaml.safe_load((tmp_path / "gguf" / "recipe.yaml").read_text("utf-8"))
    assert recipe["embeddings"] == embeddings
    said = [" ".join(layer.values()) for layer in recipe["layers"].values()]
    types = {name for layer in said for name in layer.split()}
    assert types <= {"q8_0", "q5_0", "q4_0", "dense"}
    assert "Opened by llama.cpp" in verified(tmp_path / "gguf")
    printed, _ = own.run("export", "gguf", "--format=tensor-types")
    assert "llama-quantize --tensor-type-file tensor-types.txt" in printed
    assert f"--token-embedding-type {embeddings} --output-tensor-type {embeddings}" in printed
    assert (tmp_path / "gguf" / "tensor-types.txt").read_text("utf-8").startswith("blk")
