"""Tasks of lm-evaluation-harness, here of files with their data beside them."""

import json
import sys
from pathlib import Path

import pytest

from autocompress.errors import TextError
from autocompress.evaluators.tasks import needs_generation, read_tasks

N_QUESTIONS = 5


def write_task(folder: Path, name: str, lines: str) -> str:
    """Write a task of sums; return what names it."""
    data = folder / "sums.jsonl"
    rows = (
        {"question": f"{n} + 1 =", "options": ["none", f"N{n + 1}"], "answer": f"N{n + 1}"}
        for n in range(N_QUESTIONS)
    )
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / f"{name}.yaml").write_text(
        f"task: {name}\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        "test_split: test\n"
        'doc_to_text: "{{question}}"\n' + lines
    )
    return f"lm-eval:{folder}/{name}"


CHOICE = """\
output_type: multiple_choice
doc_to_choice: "{{options}}"
doc_to_target: 1
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ANSWER = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)

    with pytest.raises(TextError, match=r"run `pip install 'autocompress\[lm-eval\]'`"):
        read_tasks("lm-eval:arc_easy")


@pytest.mark.slow  # The package reads thousands of task files whenever it is asked for one.
@pytest.mark.filterwarnings("default")  # of its imports
class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def _with_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")
        pytest.importorskip("lm_eval")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def test_choices_follow_the_prompt_as_the_task_has_them(self, tmp_path: Path) -> None:
        items = read_tasks(write_task(tmp_path, "chosen_sums", CHOICE), allow_python=True)

        assert [item.prompt for item in items] == [f"{n} + 1 =" for n in range(N_QUESTIONS)]
        assert {item.metric for item in items} == {"choice"}
        assert items[2].choices == (" none", " N3")
        assert items[2].references == (" N3",)
        assert not needs_generation(items[2])

    @pytest.mark.parametrize(
        ("setting", "metric"), [("", "exact"), (", ignore_case: true", "match")]
    )
    def test_answers_are_matched_as_strictly_as_the_task_says(
        self, tmp_path: Path, setting: str, metric: str
    ) -> None:
        lines = ANSWER.replace("better: true", f"better: true{setting}")

        items = read_tasks(write_task(tmp_path, "written_sums", lines), allow_python=True)

        assert {(item.metric, item.stop) for item in items} == {(metric, ("\n",))}
        assert items[2].references == ("N3",)

    def test_a_prompt_holds_the_examples_that_the_task_asks_for(self, tmp_path: Path) -> None:
        lines = ANSWER + "num_fewshot: 2\nfewshot_split: test\n"

        items = read_tasks(write_task(tmp_path, "shown_sums", lines), allow_python=True)

        assert all(item.prompt.count(" + 1 = N") == 2 for item in items)
        assert items[2].prompt.endswith("\n\n2 + 1 =")

    @pytest.mark.parametrize(
        ("lines", "why"),
        [
            (ANSWER.replace("exact_match", "f1"), "its metrics are f1, not exact_match"),
            (CHOICE.replace("metric: acc", "metric: mcc"), "its metrics are mcc, not acc"),
            (
                ANSWER + "filter_list: [{name: none, filter: [{function: take_first}]}]\n",
                "it filters answers",
            ),
            (CHOICE.replace("{{options}}", "{{unknown}}"), "be read"),
        ],
    )
    def test_a_task_that_would_be_scored_otherwise_is_refused(
        self, tmp_path: Path, lines: str, why: str
    ) -> None:
        path = write_task(tmp_path, "odd_sums", lines)

        with pytest.raises(TextError, match=f"^lm-eval: task odd_sums cannot .*{why}.*"):
            read_tasks(path, allow_python=True)

    def test_task_files_of_ones_own_are_read_where_python_is_allowed(self, tmp_path: Path) -> None:
        with pytest.raises(TextError, match="may run Python, which is off"):
            read_tasks(write_task(tmp_path, "own_sums", CHOICE))

    def test_a_task_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TextError, match=r"^lm-eval: there is no folder /nowhere"):
            read_tasks("lm-eval:/nowhere/sums", allow_python=True)
        with pytest.raises(TextError, match=r"^lm-eval: there is no task no_such_task"):
            read_tasks("lm-eval:no_such_task")
