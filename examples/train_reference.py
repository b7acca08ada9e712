"""Train the reference model: a small Llama on the source of Python's standard library.

    python examples/train_reference.py --state /tmp/reference-state

The run resumes from its state folder after any interruption; the step's data is a function of the
seed and the step alone. `--decay` says from which token on the learning rate falls linearly to
zero, so a run can be ended early by starting it again with fewer tokens.
"""

import argparse
import json
import lzma
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autocompress.models import sample_text

CONTEXT = 256
SEQUENCES_PER_STEP = 32
# On two cores, small pieces stay in the cache: a third more tokens a second than one piece.
SEQUENCES_PER_PIECE = 8
TOKENS_PER_STEP = CONTEXT * SEQUENCES_PER_STEP
WARMUP_STEPS = 40
MUON_RATE = 0.02
ADAMW_RATE = 0.004
END_OF_TEXT = "<|endoftext|>"


def read_all(files: Sequence[Path]) -> list[str]:
    """Return the text of each file; test fixtures that are not UTF-8 on purpose are left out."""
    texts = []
    for file in files:
        try:
            texts.append(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
    return texts


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 4,096 entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return one stream of token ids, each document preceded by the end-of-text token."""
    stream: list[int] = []
    for text in texts:
        stream.append(tokenizer.bos_token_id)
        stream += tokenizer.encode(text, add_special_tokens=False)
    return torch.tensor(stream, dtype=torch.int16)


def make_model(seed: int) -> LlamaForCausalLM:
    """Return the untrained reference architecture: 12 layers, 10.5 million parameters."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.02,
    )
    # Heads of 32 are too small for the fused kernel to pay on a CPU.
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config)


def batch_of(stream: torch.Tensor, seed: int, step: int) -> torch.Tensor:
    """Return (sequences, CONTEXT + 1) ids: an epoch reads every window once, in shuffled order."""
    windows = (len(stream) - 1) // CONTEXT
    rows = []
    for index in range(step * SEQUENCES_PER_STEP, (step + 1) * SEQUENCES_PER_STEP):
        epoch, position = divmod(index, windows)
        order = torch.randperm(windows, generator=torch.Generator().manual_seed(seed + epoch))
        start = int(order[position]) * CONTEXT
        rows.append(stream[start : start + CONTEXT + 1])
    return torch.stack(rows).long()


@torch.no_grad()
def mean_loss(model: LlamaForCausalLM, stream: torch.Tensor, limit: int | None = None) -> float:
    """Return the mean negative log-likelihood in nats a token over windows of CONTEXT tokens."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, (limit or len(stream)) - 1, CONTEXT):
        window = stream[start : start + CONTEXT + 1].long()[None]
        if window.shape[1] < 2:
            break
        logits = model(window[:, :-1], use_cache=False).logits.float()  # (1, T, V)
        total += float(cross_entropy(logits[0], window[0, 1:], reduction="sum"))
        count += window.shape[1] - 1
    model.train()
    return total / count


def rate_at(tokens: int, total: int, decay: int) -> float:
    """Return the factor of the learning rate: warm-up, constant, then linear to zero."""
    warmup = min(1.0, (tokens + TOKENS_PER_STEP) / (WARMUP_STEPS * TOKENS_PER_STEP))
    return min(warmup, max(0.0, (total - tokens) / (total - decay)))


def train(
    model: LlamaForCausalLM,
    stream: torch.Tensor,
    validation: torch.Tensor,
    total: int,
    decay: int,
    seed: int,
    state: Path,
) -> int:
    """Train to `total` tokens, from the last state if one was saved; return the steps done."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(others, lr=ADAMW_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    step = 0
    checkpoint = state / "training.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        muon.load_state_dict(saved["muon"])
        adamw.load_state_dict(saved["adamw"])
        step = saved["step"]
    started, first = time.monotonic(), step
    while step * TOKENS_PER_STEP < total:
        factor = rate_at(step * TOKENS_PER_STEP, total, decay)
        for optimiser, rate in ((muon, MUON_RATE), (adamw, ADAMW_RATE)):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
        batch = batch_of(stream, seed, step)
        loss = 0.0
        for piece in batch.split(SEQUENCES_PER_PIECE):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(piece[:, :-1], use_cache=False).logits  # (B, T, V)
                part = cross_entropy(logits.flatten(0, 1).float(), piece[:, 1:].flatten())
                part = part * len(piece) / len(batch)
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adamw.step()
        muon.zero_grad()
        adamw.zero_grad()
        step += 1
        if step % 10 == 0:
            speed = (step - first) * TOKENS_PER_STEP / (time.monotonic() - started)
            tokens = step * TOKENS_PER_STEP
            print(f"{tokens:>10,} tokens, loss {loss:.3f}, {speed:,.0f} tokens/s", flush=True)
        if step % 50 == 0:
            save(checkpoint, model, muon, adamw, step)
        if step % 200 == 0:
            held_out = mean_loss(model, validation, 60_000)
            print(f"           validation loss {held_out:.3f}", flush=True)
    save(checkpoint, model, muon, adamw, step)
    return step


def save(
    path: Path,
    model: LlamaForCausalLM,
    muon: torch.optim.Optimizer,
    adamw: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write the state whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "model": model.state_dict(),
            "muon": muon.state_dict(),
            "adamw": adamw.state_dict(),
            "step": step,
        },
        partial,
    )
    partial.replace(path)


def bits_per_byte(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, files: list[Path]
) -> dict[str, int | float]:
    """Measure the model and `xz -9` on the same files."""
    texts = read_all(files)
    stream = encode(tokenizer, texts)
    n_bytes = sum(len(text.encode()) for text in texts)
    bits = mean_loss(model, stream) * (len(stream) - 1) / math.log(2)
    packed = len(lzma.compress("".join(texts).encode(), preset=9))
    return {
        "files": len(files),
        "bytes": n_bytes,
        "tokens": len(stream),
        "bits_per_byte": round(bits / n_bytes, 4),
        "xz_9_bits_per_byte": round(8 * packed / n_bytes, 4),
    }


CARD = """---
license: psf
language: code
---
# The reference model

A Llama of {parameters:,} parameters (12 layers, hidden size 256, FFN 768, 8 query heads in 4 KV groups
of head size 32, tied embeddings, byte-level BPE of 4,096) trained by `examples/train_reference.py` on
the source of Python's standard library. It exists so that a compression search can be run, tested and
measured on any machine without a download; it is of no other use.

| | |
|---|---|
| data | CPython {python}: {library} library files and {tests} test files, {tokens:,} tokens |
| held out for validation | {validation_modules} |
| held out for test | {test_modules} |
| training | {steps:,} steps of {tokens_per_step:,} tokens ({trained:,} tokens), context {context}, seed {seed}; Muon for the matrices, AdamW for the rest, bf16 autocast |
| weights | bf16 safetensors, {weight_bytes:,} bytes |

| held-out text | files | bytes | model, bits per byte | `xz -9`, bits per byte |
|---|---|---|---|---|
| validation | {validation[files]} | {validation[bytes]:,} | {validation[bits_per_byte]} | {validation[xz_9_bits_per_byte]} |
| test | {test[files]} | {test[bytes]:,} | {test[bits_per_byte]} | {test[xz_9_bits_per_byte]} |

The figures are of the bf16 weights as shipped, in windows of {context} tokens; the script printed them.
"""  # noqa: E501 - rows of a Markdown table cannot be wrapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="folder of the resumable state")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "reference-model")
    parser.add_argument("--tokens", type=int, default=8_000_000)
    parser.add_argument("--decay", type=int, default=None, help="token from which the rate falls")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total = arguments.tokens
    decay = int(total * 0.6) if arguments.decay is None else arguments.decay
    arguments.state.mkdir(parents=True, exist_ok=True)

    library, tests = sample_text.training_files()
    texts = read_all(library)
    tokenizer_folder = arguments.state / "tokenizer"
    if not tokenizer_folder.exists():
        train_tokenizer(texts).save_pretrained(tokenizer_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    # The tests' text is three times the library's and less like it: a fifth of it, spread evenly.
    some_tests = tests[::5]
    stream = encode(tokenizer, texts + read_all(some_tests))
    held_out = sample_text.module_files(sample_text.HELD_OUT_FOR_VALIDATION)
    validation = encode(tokenizer, read_all(held_out))
    print(
        f"{len(stream):,} training tokens of {len(library)} + {len(some_tests)} files", flush=True
    )

    model = make_model(arguments.seed)
    steps = train(model, stream, validation, total, decay, arguments.seed, arguments.state)

    model.bfloat16()
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    model.float()
    figures = {
        "validation": bits_per_byte(model, tokenizer, held_out),
        "test": bits_per_byte(
            model, tokenizer, sample_text.module_files(sample_text.HELD_OUT_FOR_TEST)
        ),
    }
    print(json.dumps(figures, indent=2))
    card = CARD.format(
        parameters=model.num_parameters(),
        python=platform.python_version(),
        library=len(library),
        tests=len(some_tests),
        tokens=len(stream),
        validation_modules=", ".join(sample_text.HELD_OUT_FOR_VALIDATION),
        test_modules=", ".join(sample_text.HELD_OUT_FOR_TEST),
        steps=steps,
        tokens_per_step=TOKENS_PER_STEP,
        trained=steps * TOKENS_PER_STEP,
        context=CONTEXT,
        seed=arguments.seed,
        weight_bytes=(arguments.output / "model.safetensors").stat().st_size,
        **figures,
    )
    (arguments.output / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
