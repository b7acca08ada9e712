"""The flags of every command, and the spec that they and a YAML file make."""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import autocompress
from autocompress.cli.decoding_flags import add_decode
from autocompress.cli.service_flags import Command, add_api, add_schedule, add_serve, add_sweep
from autocompress.errors import SpecError
from autocompress.spec import (
    PRUNERS,
    QUANTIZERS,
    SPACES,
    STRATEGIES,
    TARGET_FLAGS,
    TARGETS,
    SearchSpec,
    from_mapping,
    read_values,
    read_yaml,
)
from autocompress.spec_rules import ENGINES, FORMATS, GGUF_TYPES, OF_SPACES, of_no_space

DEFAULT_SPEC = Path("autocompress.yaml")
DEFAULT_STORAGE = "sqlite:///.autocompress/studies.db"
DEFAULT_OUTPUT = Path("autocompress-out")
TEXT_FLAGS = (
    "device",
    "dtype",
    "calibration",
    "context",
    "teacher_tokens",
    "seed",
)
READING_FLAGS = ("workload", *TEXT_FLAGS)

SPEC_FLAGS = (
    "target_speedup",
    "target_latency",
    "target_throughput",
    "target_memory",
    "target_bytes",
    "target_bits",
    "target_params",
    "counted_bits",
    "space",
    "bits",
    "group_size",
    "sparsities",
    "sparsity_step",
    "kv_bits",
    "quantizer",
    "pruner",
    "upstream",
    "embeddings",
    "engine",
    "format",
    "latency_table",
    "quality_floor",
    "strategy",
    "darwin_rungs",
    "darwin_generations",
    "darwin_rate",
    "darwin_optimizer",
    "recover",
    "recovery_text",
    "recovery_rate",
    "recovery_rank",
    "recovery_hidden",
    "recovery_draw",
    "start",
    "max_tokens",
    "workers",
    "pool",
    "address",
    "shards",
    "timing_processes",
    "weights_bytes",
    "warm_start",
    "tasks",
    "decoding_tune",
    "decoding_fix",
    "decoding_trials",
    "decoding_items",
    *READING_FLAGS,
)

AXES = ("speedup", "bytes", "bits", "params")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that every failure is printed in one place."""
        raise SpecError(f"{message[:1].upper()}{message[1:]}. Try `{self.prog} --help`.")


def make_parser(run: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser; a command's function is left in `command`.

    Args:
        run: The function of every command.
    """
    parser = _Parser(prog="autocompress", description=autocompress.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=autocompress.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    search = commands.add_parser("search", help="search, export and prove a compressed model")
    _add_spec_flags(search)
    search.add_argument("--study", help="the study's name; made from the model and time if absent")
    _add_storage(search)
    _add_output(search)
    _add_json(search)
    search.set_defaults(command=run["search"])

    resume = commands.add_parser("resume", help="go on with a study that was stopped")
    resume.add_argument("study", metavar="STUDY")
    _add_storage(resume)
    _add_output(resume)
    _add_json(resume)
    resume.set_defaults(command=run["resume"])

    profile = commands.add_parser("profile", help="measure what each choice costs on this machine")
    _add_spec_flags(profile)
    _add_storage(profile)
    profile.add_argument("--output", type=Path, help="file to write the latency table to, as JSON")
    profile.add_argument("--figure", type=Path, help="file to draw the latency table into, as PNG")
    _add_json(profile)
    profile.set_defaults(command=run["profile"])

    retarget = commands.add_parser(
        "retarget", help="what a study predicts for other targets; --refine to search them"
    )
    retarget.add_argument("study", metavar="STUDY")
    _add_targets(retarget)
    retarget.add_argument(
        "--refine", action="store_true", help="search on from the prediction, export and prove it"
    )
    retarget.add_argument("--new-study", metavar="NAME", help="default: STUDY-1.7x")
    _add_storage(retarget)
    _add_output(retarget)
    _add_json(retarget)
    retarget.set_defaults(command=run["retarget"])

    report = commands.add_parser("report", help="write or print the report of a finished study")
    report.add_argument("study", metavar="STUDY")
    _add_storage(report)
    report.add_argument("--output", type=Path, help="folder to write the report to")
    report.set_defaults(command=run["report"])

    pareto = commands.add_parser(
        "pareto", help="show which measured candidates no other dominates"
    )
    pareto.add_argument("study", metavar="STUDY")
    pareto.add_argument(
        "--by", choices=AXES, help="what is held against loss (default: the study's first target)"
    )
    pareto.add_argument(
        "--sequences",
        type=int,
        metavar="N",
        help="what a candidate must have been read on to compete (default: as many as leave ten, "
        "or as a search for a front reads its members)",
    )
    _add_storage(pareto)
    _add_output(pareto)
    pareto.set_defaults(command=run["pareto"])

    evaluate = commands.add_parser(
        "evaluate", help="judge a checkpoint or GGUF file: its loss, its size, its speed"
    )
    evaluate.add_argument(
        "path", metavar="PATH", help="a model's folder or name on the hub, or a GGUF file"
    )
    evaluate.add_argument("--against", metavar="MODEL", help="what it was made of")
    evaluate.add_argument(
        "--sequences", type=int, default=256, metavar="256", help="of text that are read"
    )
    evaluate.add_argument(
        "--engine",
        choices=("auto", "vllm"),
        default="auto",
        help="what models are timed on: torch, or llama.cpp for GGUF files, or vllm",
    )
    _add_reading(evaluate)
    evaluate.add_argument("--output", type=Path, help="file to write the judgement to, as JSON")
    _add_json(evaluate)
    evaluate.set_defaults(command=run["evaluate"])

    metric = commands.add_parser(
        "metric", help="evolve a formula that says which weights to prune, for --pruner"
    )
    metric.add_argument("model", metavar="MODEL", help="folder or hub name of the model")
    metric.add_argument(
        "--sparsities",
        default="0.5,0.6,2:4",
        metavar="0.5,0.6,2:4",
        help="that it is to prune to",
    )
    metric.add_argument(
        "--tested-sparsities",
        default="0.4,0.7",
        metavar="0.4,0.7",
        help="that the winner is tested at besides",
    )
    metric.add_argument(
        "--evaluations", type=int, default=300, metavar="300", help="formulas that are measured"
    )
    metric.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder, and where an interrupted run goes on (default: {DEFAULT_OUTPUT}/metric-"
        "MODEL-seedN)",
    )
    _add_text(metric)
    _add_json(metric)
    metric.set_defaults(command=run["metric"])

    add_decode(commands, run, _add_run)

    export = commands.add_parser(
        "export",
        help="publish a winner in another format or a point of the front, or write it for a tool",
    )
    export.add_argument("study", metavar="STUDY")
    export.add_argument(
        "--format",
        help=f"{', '.join(FORMATS)}: a checkpoint, proven and measured anew; or for a tool "
        "tensor-types (llama.cpp), llm-compressor, gptqmodel, modelopt (default: the study's)",
    )
    export.add_argument(
        "--point",
        metavar="GENOTYPE",
        help="the candidate, by its name in `autocompress pareto STUDY` (default: the winner)",
    )
    export.add_argument(
        "--new-study", metavar="NAME", help="default: STUDY-decilm, STUDY-GENOTYPE"
    )
    _add_storage(export)
    _add_output(export)
    _add_json(export)
    export.set_defaults(command=run["export"])

    verify = commands.add_parser(
        "verify", help="check a published model again: its files, and that it loads and answers"
    )
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="a search's output or model/")
    verify.add_argument("--files-only", action="store_true", help="do not open it in its engine")
    verify.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    verify.set_defaults(command=run["verify"])

    studies = commands.add_parser("studies", help="list all studies")
    _add_storage(studies)
    studies.set_defaults(command=run["studies"])

    add_sweep(commands, run, _add_storage)
    add_serve(commands, run, _add_storage)
    add_api(commands, run, _add_storage)
    add_schedule(commands, run, _add_storage)
    return parser


def _add_spec_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder or hub name of the model"
    )
    parser.add_argument(
        "--spec",
        type=Path,
        help="YAML file of these settings; flags override it (default: "
        "autocompress.yaml where no MODEL is given)",
    )
    _add_targets(parser)
    parser.add_argument("--space", help=f"auto, or a list of: {','.join(SPACES)}")
    parser.add_argument(
        "--bits",
        metavar="2,3,4",
        help="that weights may take: 2 to 8, w8sym, w4g32, fp8, mxfp4, nvfp4; "
        f"with --engine llama.cpp {', '.join(GGUF_TYPES)}",
    )
    parser.add_argument(
        "--group-size", metavar="N", help="columns that share a scale; 0 takes whole rows"
    )
    parser.add_argument(
        "--symmetric", action="store_true", help="codes around 0, without zero points"
    )
    parser.add_argument("--sparsities", metavar="0.5,2:4", help="that weights may take")
    parser.add_argument(
        "--sparsity-step",
        metavar="N",
        help="weights between neighbouring levels, equal in all layers, around one --sparsities",
    )
    parser.add_argument(
        "--kv-bits",
        metavar="8,4",
        help="that KV caches may take; with --strategy given alone, for no target counts them",
    )
    parser.add_argument(
        "--whole-layers",
        action="store_true",
        help="let depth drop whole layers alone: every engine loads what is left",
    )
    parser.add_argument(
        "--per-linear",
        action="store_true",
        help="a setting for every linear layer, also for those that engines fuse",
    )
    parser.add_argument("--quantizer", help=f"what builds codes: {', '.join(QUANTIZERS)}")
    parser.add_argument(
        "--pruner",
        help=f"what builds zeros: {', '.join(PRUNERS)}, or the formula of a score of weights "
        "W, inputs X and gradients G, such as 'abs(W) * X', or a .json file with a tree of "
        "Pruner-Zero",
    )
    parser.add_argument(
        "--upstream",
        metavar="3",
        help="how layers are stored while those after them are calibrated: dense, or one of "
        "--bits or --sparsities",
    )
    parser.add_argument(
        "--embeddings",
        metavar="q6_k",
        help="with --engine llama.cpp: the type of token embedding and head, f16 or as --bits",
    )
    parser.add_argument("--engine", help=f"what runs the model: {', '.join(ENGINES)}")
    parser.add_argument(
        "--format",
        help=f"what the checkpoint is written in: {', '.join(FORMATS)}; llama.cpp takes the last",
    )
    parser.add_argument("--latency-table", metavar="PATH", help="what `profile --output` wrote")
    parser.add_argument(
        "--fresh-profile",
        action="store_true",
        help="measure the latency table anew, even where the store holds one of this machine",
    )
    parser.add_argument("--quality-floor", metavar="1.3", help="highest perplexity ratio to dense")
    parser.add_argument("--strategy", help=f"how to search: {', '.join(STRATEGIES)}")
    parser.add_argument(
        "--start",
        metavar="FILE",
        help="a recipe, or what EvoPress, llama-quantize or compressed-tensors say of the model: "
        "a candidate to begin with, or with --strategy given to measure and export alone",
    )
    parser.add_argument(
        "--budget",
        metavar="30m",
        help="time for the search alone: 90s, 30m, 1.5h; levels and profile before it, timing, "
        "corrections of a missed target and recovery after it come on top; with decoding in "
        "--space for each search for a compressed model",
    )
    parser.add_argument(
        "--max-tokens",
        metavar="20M",
        help="tokens for the search, all candidates; with decoding in --space for each one of a "
        "compressed model",
    )
    parser.add_argument("--workers", metavar="N", help="workers; by default one a core, or a GPU")
    parser.add_argument("--pool", help="local or ray")
    parser.add_argument("--address", help="a running Ray cluster; with --pool ray")
    parser.add_argument(
        "--shards", metavar="16", help="parts of a batch; raise it for more than 8 workers"
    )
    parser.add_argument(
        "--timing-processes",
        metavar="4",
        help="in which winners are timed end to end, up to three times as many where it is open "
        "whether a target is met; fewer where an engine takes long to start",
    )
    parser.add_argument(
        "--weights-bytes",
        metavar="8GB",
        help="of the layers' weights held by each worker; the others are streamed from disk",
    )
    parser.add_argument(
        "--darwin-rungs",
        metavar="2k:8:3,...",
        help="of --strategy darwin: tokens to train on, sequences to read, survivors",
    )
    parser.add_argument("--darwin-generations", metavar="6", help="of trained candidates")
    parser.add_argument("--darwin-rate", metavar="1e-3", help="learning rate of their training")
    parser.add_argument("--darwin-optimizer", help="adamw or sgd")
    parser.add_argument(
        "--recover", metavar="2M", help="tokens to train the winner on, from the dense model"
    )
    parser.add_argument(
        "--recovery-text",
        metavar="FILE",
        help="text to train on (default: of --calibration what the search reads)",
    )
    parser.add_argument("--recovery-rate", metavar="1e-3", help="learning rate of the training")
    parser.add_argument(
        "--recovery-rank", metavar="16", help="train LoRA's adapters of this rank, not all weights"
    )
    parser.add_argument(
        "--recovery-hidden", metavar="0", help="weight of hidden states beside predictions"
    )
    parser.add_argument(
        "--recovery-draw", help="of the text: evenly, or more of it where the winner is worst"
    )
    parser.add_argument(
        "--tasks",
        metavar="PATH",
        help="with decoding in --space: what is answered, as `decode` takes it",
    )
    parser.add_argument("--decoding-tune", metavar="LIST", help="as --tune of `decode`")
    parser.add_argument("--decoding-fix", metavar="stop=line,...", help="as --fix of `decode`")
    parser.add_argument("--decoding-trials", metavar="30", help="as --trials of `decode`")
    parser.add_argument("--decoding-items", metavar="64", help="as --items of `decode`")
    parser.add_argument(
        "--allow-python", action="store_true", help="as --allow-python of `decode`"
    )
    parser.add_argument(
        "--warm-start",
        help="losses of single changes, gradients (of bits and sparsity), or weights, data-free",
    )
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how models are loaded, read text and are timed."""
    parser.add_argument(
        "--workload",
        metavar="BxP+G",
        help="batch, prompt, generated tokens; after `prefill:` or `decode:` only the time to the "
        "first token or of a further one; or several with weights: 3*1x128+64,1*decode:8x512+32",
    )
    _add_text(parser)


def _add_text(parser: argparse.ArgumentParser) -> None:
    """Add how models are loaded and read text."""
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", help="auto (the checkpoint's), bfloat16 or float32")
    parser.add_argument("--calibration", metavar="PATH", help="text, or JSON Lines with `text`")
    parser.add_argument("--context", metavar="256", help="tokens of a calibration sequence")
    parser.add_argument(
        "--teacher-tokens", metavar="512", help="likeliest tokens kept of each dense prediction"
    )
    parser.add_argument("--seed", help="of everything random")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that the model's folder brings"
    )


def _add_targets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target-speedup", metavar="2x", help="how much faster than dense")
    parser.add_argument(
        "--target-latency",
        metavar="20ms",
        help="of a mean request of the workload, on this machine",
    )
    parser.add_argument(
        "--target-throughput",
        metavar="300",
        help="generated tokens a second of the workload, on this machine; prompts take their time",
    )
    parser.add_argument(
        "--target-memory",
        metavar="4GB",
        help="what serving may hold at most, weights and KV cache, or 50%% of what dense holds",
    )
    parser.add_argument(
        "--target-bytes", metavar="4GB", help="of the whole model, or 50%% of dense"
    )
    parser.add_argument("--target-bits", metavar="3.5", help="mean of the searched linear layers")
    parser.add_argument(
        "--target-params", metavar="50%", help="of the whole model, or a number such as 3B"
    )
    parser.add_argument(
        "--counted-bits",
        help="what --target-bits counts: nominal (codes alone), stored (scales, zero points and "
        "masks too), or whole (embeddings and head too, of the whole model)",
    )


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage", default=DEFAULT_STORAGE, metavar="URL", help=f"default: {DEFAULT_STORAGE}"
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add where a study is kept, where its output goes, and how it is told."""
    _add_storage(parser)
    _add_output(parser)
    _add_json(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"default: {DEFAULT_OUTPUT}/STUDY"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as JSON Lines")


def targets_of(parsed: argparse.Namespace) -> dict[str, object]:
    """Return the targets that flags give, by name, and which bits are counted if they say it.

    Raises:
        SpecError: If there is none.
    """
    given = {name: getattr(parsed, name) for name in (*TARGETS, "counted_bits")}
    found = {name: value for name, value in given.items() if value is not None}
    if not any(name in found for name in TARGETS):
        raise SpecError(f"Give a target: {', '.join(TARGET_FLAGS[:-1])} or {TARGET_FLAGS[-1]}.")
    return found


def reading_of(parsed: argparse.Namespace) -> dict[str, object]:
    """Read how models are loaded, read and timed, by the names of a spec's fields.

    Raises:
        SpecError: If a flag cannot be meant; all offenders are named.
    """
    values = {name: getattr(parsed, name) for name in READING_FLAGS}
    return read_values(values) | {"trust_remote_code": parsed.trust_remote_code}


def text_of(parsed: argparse.Namespace) -> dict[str, object]:
    """Return how models are loaded and read text, as given, by the names of a spec's fields."""
    given = {name: getattr(parsed, name) for name in TEXT_FLAGS}
    return given | {"trust_remote_code": parsed.trust_remote_code}


def spec_of(parsed: argparse.Namespace, without_target: Mapping[str, object]) -> SearchSpec:
    """Read the spec: the file, overridden by the flags.

    Args:
        without_target: What is meant where neither gives a target.

    Raises:
        SpecError: If it cannot be meant, or a flag says nothing in the space that is searched; a
            file may hold values for several spaces.
    """
    values: dict[str, object] = {}
    path: Path | None = parsed.spec
    if path is None and parsed.model is None and DEFAULT_SPEC.is_file():
        path = DEFAULT_SPEC
    if path is not None:
        values |= {key.replace("-", "_"): value for key, value in read_yaml(path).items()}
    flags = {name: getattr(parsed, name) for name in SPEC_FLAGS}
    flags |= {"model": parsed.model, "budget_seconds": parsed.budget}
    for switch in (
        "trust_remote_code",
        "symmetric",
        "per_linear",
        "whole_layers",
        "fresh_profile",
        "allow_python",
    ):
        if getattr(parsed, switch):
            flags[switch] = True
    flags = {name: value for name, value in flags.items() if value is not None}
    values |= flags
    if str(values.get("pruner")).endswith(".json"):
        # What reads files of other tools imports torch.
        from autocompress.export.readers import read_metric

        values["pruner"] = read_metric(Path(str(values["pruner"])).expanduser())
    if all(values.get(name) is None for name in TARGETS):
        values |= without_target
    spec = from_mapping(values)
    _check_spaces(flags, spec)
    return spec


def _check_spaces(flags: Iterable[str], spec: SearchSpec) -> None:
    """Make sure that every flag says something in the space that is searched."""
    unheard = [
        f"--{name.replace('_', '-')} needs {' or '.join(OF_SPACES[name])}"
        for name in of_no_space(flags, spec.space)
    ]
    if unheard:
        raise SpecError(
            f"space: {', '.join(unheard)}, but {', '.join(spec.space)} is searched: name all in "
            "--space, or leave the flag out."
        )
