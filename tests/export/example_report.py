"""A realistic report, with everything a pipeline fills in."""

import numpy as np

from autocompress.export.report import (
    Baseline,
    Baselines,
    Bits,
    Bytes,
    Correction,
    GateResult,
    LatencyModel,
    LayerChoice,
    Loss,
    Parameters,
    Progress,
    Report,
    Sample,
    SearchCost,
    Speedup,
    SpeedupPoint,
    Target,
)


def example_report(n_layers: int = 24, study: str = "shakespeare-2x") -> Report:
    """Return the report of a search that met its target."""
    rng = np.random.default_rng(7)
    menu = (
        ("dense", 1.0),
        ("dense", 1.0),
        ("dense", 1.0),
        ("width 3/4", 0.75),
        ("width 2/4, w4g128 w3g128", 0.12),
        ("w4g128 dense", 0.6),
        ("drop", 0.0),
    )
    pairs = rng.integers(len(menu), size=(n_layers, 2))
    layers = tuple(
        LayerChoice(n, menu[a][0], menu[m][0], menu[a][1], menu[m][1])
        for n, (a, m) in enumerate(pairs)
    )
    losses = 0.21 + 0.5 * np.exp(-np.arange(40) / 7)
    history = tuple(
        Progress(86_016 + 61_440 * n, 4.0 + 3.1 * n, n, float(loss))
        for n, loss in enumerate(losses)
    )
    predicted = rng.uniform(1.15, 2.6, 24)
    points = tuple(
        SpeedupPoint(float(p), float(p * (1 + e)))
        for p, e in zip(predicted, rng.normal(0, 0.02, 24), strict=True)
    )
    return Report(
        study=study,
        model="examples/reference-24l",
        engine="torch",
        hardware="Intel Xeon, 2 cores, float32",
        workload="1x128+64",
        command=f"autocompress search --target-speedup 2x --study {study} --seed 3",
        target=Target("speedup", 2.0, met=True),
        met=True,
        quality_floor=1.3,
        speedup=Speedup(2.08, (1.99, 2.17), 2.05, (2.01, 2.09)),
        latency_model=LatencyModel(
            mape=0.018,
            rank_correlation=0.993,
            coverage=0.96,
            held_out=24,
            interval_half_width=0.043,
            repeat_error=0.009,
            points=points,
        ),
        loss=Loss(0.213, 0.006, 21.9, 18.1, 131_072),
        baselines=Baselines(
            uniform=Baseline(0.612, 35.2, 0.014, (0.37, 0.43), 2.01),
            additive=Baseline(0.298, 24.6, 0.008, (0.071, 0.099), 2.02),
            random=Baseline(0.871, 44.0, 0.021, (0.61, 0.70), 2.0),
        ),
        bytes=Bytes(153_600_000, 81_200_000, 81_264_512),
        bits=Bits(32.0, 32.0),
        parameters=Parameters(38_400_000, 20_300_000),
        search=SearchCost(2_410, 2_482_176, 1_264.5, 39, "no improvement on a fresh draw"),
        gate=GateResult(True, "torch", "2.9.0", 3.1e-6, bytes_match=True, answered=True),
        layer_map=layers,
        history=history,
        sample=Sample(
            "The king said",
            "The king said to his men that they should ride before the dawn.",
            "The king said to the men that he would ride before the night.",
        ),
        versions={"autocompress": "0.1.0", "torch": "2.9.0", "transformers": "5.1.0"},
        seed=3,
        needs_remote_code=True,
        corrections=(Correction(2.0, 2.06, 1.96, (1.93, 1.99)),),
        warnings=(
            "The additive start could not be measured in full: 3 sites had no single loss.",
        ),
    )
