"""Generate text, then say how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from mobileloop.commands.options import Cpus, Loops, OnnxKernel, Stream, Threads, check_range, session_options
from mobileloop.console import say
from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mobileloop.decode.batch import Samples
    from mobileloop.decode.generate import Generation
    from mobileloop.decode.sampling import Sampler
    from mobileloop.runtimes.base import Session
    from mobileloop.tokenizer import Tokenizer


Artifact = Annotated[Path, typer.Argument(help="An artifact: .safetensors, .pte or .onnx.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="What to say to the model.")]
Chat = Annotated[
    bool | None,
    typer.Option("--chat/--no-chat", help="Use the model's chat template; the default where it has one."),
]
System = Annotated[
    str | None, typer.Option("--system", help="System message of a chat; the template's own when not given.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 takes the most likely token.")]
TopP = Annotated[float, typer.Option("--top-p", help="Sample from the likeliest tokens of this total probability.")]
TopK = Annotated[int, typer.Option("--top-k", help="Sample from this many of the likeliest tokens; 0 takes all.")]
MinP = Annotated[
    float, typer.Option("--min-p", help="Sample from tokens at least this share as likely as the likeliest.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the sampling.")]
SampleCount = Annotated[
    int,
    typer.Option("--samples", help="Answers to the prompt, decoded together; number k samples with seed + k - 1."),
]
Halt = Annotated[
    str | None,
    typer.Option(
        "--halt",
        help="When a token stops looping: RULE:THRESHOLD[:MIN_LOOPS] of latent_difference, cosine or exit_gate, or "
        "none; the artifact's own rule when not given.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print text and statistics as one JSON document.")]


def run(
    file: Artifact,
    prompt: Prompt,
    chat: Chat = None,
    system: System = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = 0,
    samples: SampleCount = 1,
    loops: Loops = None,
    halt: Halt = None,
    threads: Threads = 0,
    cpus: Cpus = None,
    onnx_kernel: OnnxKernel = "auto",
    stream: Stream = "auto",
    as_json: AsJson = False,
) -> None:
    """Generate text, then say how fast: the text goes to stdout, one line of statistics to stderr.

    \b
    Examples:
      mobileloop run smollm2.safetensors --prompt "What is the capital of France?"
      mobileloop run smollm2.pte --prompt "Write a haiku." --temperature 0.7 --top-p 0.9 --seed 3
      mobileloop run smollm2.safetensors --prompt "Name a fruit." --temperature 0.8 --samples 4
      mobileloop run looped.safetensors --prompt "Why is the sky blue?" --halt latent_difference:0.03:2
      mobileloop run looped.onnx --no-chat --prompt "Once upon a time" --loops 2 --threads 1
      mobileloop run smollm2.safetensors --prompt "Name a colour." --cpus 4-7
      mobileloop run looped.safetensors --prompt "Name a bird." --threads 4 --stream core:1
    """
    from mobileloop.decode.sampling import Sampler
    from mobileloop.runtimes import open_session
    from mobileloop.runtimes.base import MAX_SEQUENCES
    from mobileloop.spec.halting import Halting
    from mobileloop.tokenizer import Tokenizer

    check_range("max-tokens", max_tokens, 1, 1 << 20)
    check_range("temperature", temperature, 0, 100)
    check_range("top-p", top_p, 1e-6, 1)
    check_range("top-k", top_k, 0, 1 << 24)
    check_range("min-p", min_p, 0, 1)
    check_range("seed", seed, 0, 2**63 - 1)
    check_range("samples", samples, 1, MAX_SEQUENCES)
    halting = None if halt is None else Halting.parse(halt)
    given = session_options([file], onnx_kernel, cpus, stream)
    session = open_session(file, threads=threads, loops=loops, sequences=samples, halting=halting, **given)
    if session.info.tokenizer is None:
        raise MobileloopError(
            f"{file} carries no tokenizer, because its source had none; export a source with a "
            "tokenizer to generate text."
        )
    tokenizer = Tokenizer(session.info.tokenizer)
    ids = _encode(tokenizer, prompt, chat, system)
    most = _Most(max_tokens, _room(session, file, len(ids)))
    if session.info.config.random_weights:
        say("note: this artifact has random weights, so the text means nothing.", err=True)
    samplers = [Sampler(temperature, top_p, seed + k, top_k, min_p) for k in range(samples)]
    (_one if samples == 1 else _several)(session, tokenizer, ids, most, samplers, as_json)


class _Most(NamedTuple):
    """How long an answer may get, and what it is cut at."""

    asked: int
    room: int

    @property
    def tokens(self) -> int:
        return min(self)

    def why(self, ended: bool) -> str:
        """Why an answer stopped: `end_token`, `max_tokens` or `context`."""
        return "end_token" if ended else "context" if self.room < self.asked else "max_tokens"

    def said(self, ended: Sequence[bool]) -> str:
        """What a line of statistics says of answers that were cut; nothing where all came to their end."""
        if all(ended):
            return ""
        which = "" if len(ended) == 1 else f"{ended.count(False)} answers "
        bound = f"the context of {self.room} more tokens" if self.room < self.asked else f"--max-tokens {self.asked}"
        return f", {which}cut at {bound}"


def _room(session: Session, file: Path, prompt_tokens: int) -> int:
    """How many tokens may follow the prompt."""
    room = session.info.context - prompt_tokens
    if room < 1:
        raise MobileloopError(
            f"the prompt has {prompt_tokens} tokens, and the context of {file} is {session.info.context}; shorten the "
            "prompt or export again with a larger --context."
        )
    return room


def _one(
    session: Session, tokenizer: Tokenizer, ids: list[int], most: _Most, samplers: Sequence[Sampler], as_json: bool
) -> None:
    """One answer, shown as it grows."""
    from mobileloop.decode.generate import generate
    from mobileloop.tokenizer import TextStream

    growing = TextStream(tokenizer, ids)
    pieces: list[str] = []

    def show(piece: str) -> None:
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    result = generate(session, ids, most.tokens, samplers[0], tokenizer.is_end, lambda token: show(growing.push(token)))
    show(growing.flush())
    facts = _facts(session, result)
    if as_json:
        stopped = most.why(result.ended[0])
        typer.echo(json.dumps({"text": "".join(pieces), "tokens": result.tokens, "stopped": stopped, **facts}))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    say(_line(session.title(), facts) + most.said(result.ended), err=True)


def _several(
    session: Session, tokenizer: Tokenizer, ids: list[int], most: _Most, samplers: Sequence[Sampler], as_json: bool
) -> None:
    """Several answers, decoded together."""
    from mobileloop.decode.batch import generate_samples

    answers = generate_samples(session, ids, most.tokens, samplers, tokenizer.is_end)
    texts = [_text(tokenizer, ids, tokens) for tokens in answers.tokens]
    stopped = [most.why(ended) for ended in answers.ended]
    line = _line(session.title(), facts := _facts(session, answers)) + most.said(answers.ended)
    _say_samples(texts, answers.tokens, stopped, facts, line if not as_json else None)


def _text(tokenizer: Tokenizer, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    from mobileloop.tokenizer import TextStream

    stream = TextStream(tokenizer, prompt)
    return "".join([*(stream.push(token) for token in tokens), stream.flush()])


def _say_samples(
    texts: list[str], tokens: list[list[int]], stopped: list[str], facts: dict[str, object], line: str | None
) -> None:
    """All answers, each under its number; they grow at the same time, so none is shown before the last one ends.

    `line` is that of the statistics; None asks for JSON.
    """
    if line is None:
        samples = zip(texts, tokens, stopped, strict=True)
        told = [{"text": text, "tokens": ids, "stopped": why} for text, ids, why in samples]
        typer.echo(json.dumps({**facts, "samples": told}))
        return
    for number, text in enumerate(texts, start=1):
        typer.echo(f"--- sample {number} of {len(texts)} ---\n{text}")
    say(line, err=True)


def _encode(tokenizer: Tokenizer, prompt: str, chat: bool | None, system: str | None) -> list[int]:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise MobileloopError("the prompt is not UTF-8 text; set a UTF-8 locale, such as LC_ALL=C.UTF-8.") from None
    if system is not None and chat is False:
        raise MobileloopError("--system is part of a chat; leave --no-chat out, or --system.")
    use_chat = chat if chat is not None else tokenizer.spec.chat_template is not None
    ids = tokenizer.chat(prompt, system) if use_chat else tokenizer.encode(prompt)
    if not ids:
        empty = "the chat template makes no text of this prompt; run it with --no-chat" if use_chat and prompt else None
        raise MobileloopError(f"{empty or 'the prompt is empty; give some text with --prompt'}.")
    return ids


def _facts(session: Session, result: Generation | Samples) -> dict[str, object]:
    """Statistics of a run; an unknown figure is None."""
    from mobileloop.process import memory_status

    rate, steps = result.decode_tokens_per_s, result.steps_per_s
    generated = sum(result.lengths)
    middle = result.prompt_tokens + generated // len(result.lengths) // 2
    read = None
    if rate is not None and steps is not None:
        read = session.info.unique_bytes() * steps + _kv_bytes(session, middle) * rate
    return {
        "runtime": session.runtime,
        "details": session.details(),
        "loops": session.loops,
        "applied_loops": _applied_loops(session),
        "threads": session.threads,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": generated,
        "prefill_tokens_per_s": result.prefill_tokens_per_s,
        "decode_tokens_per_s": rate,
        "time_to_first_token_ms": result.prefill_ms,
        "read_gbps": None if read is None else read / 1e9,
        "peak_memory_bytes": memory_status().get("VmHWM"),
    }


def _kv_bytes(session: Session, position: int) -> float:
    """KV bytes of a token at `position`, by the applications that tokens really had where the runtime counts them."""
    whole = session.info.kv_bytes(position, session.requested_loops)
    mean = session.mean_applications
    if mean is None:
        return whole
    return whole * mean / sum(1 for _ in session.info.schedule.applications(session.requested_loops))


def _applied_loops(session: Session) -> dict[str, object] | None:
    """Loops that tokens ran in the looped stages: mean and histogram; None where nothing loops or nobody counts."""
    if not session.loop_counts.any():
        return None
    counts = {loops: int(count) for loops, count in enumerate(session.loop_counts) if count}
    mean = sum(loops * count for loops, count in counts.items()) / sum(counts.values())
    return {"mean": mean, "histogram": counts}


def _line(title: str, facts: dict[str, object]) -> str:
    def figure(key: str, form: str, scale: float = 1.0) -> str:
        value = facts[key]
        return "unknown" if value is None else form.format(float(value) * scale)  # type: ignore[arg-type]

    def counted(what: str) -> str:
        return f"{facts[what + 's']} {what}{'' if facts[what + 's'] == 1 else 's'}"

    applied = facts["applied_loops"]
    halted = ""
    if isinstance(applied, dict) and len(applied["histogram"]) > 1:  # all the same is what the loop count says
        share = ", ".join(f"{loops}: {count}" for loops, count in applied["histogram"].items())
        halted = f", {applied['mean']:.2f} loops applied on average ({share})"
    return (
        f"[{title}, {counted('loop')}, {counted('thread')}] "
        f"prefill {figure('prefill_tokens_per_s', '{:.1f}')} tokens/s, "
        f"decode {figure('decode_tokens_per_s', '{:.1f}')} tokens/s, "
        f"first token {figure('time_to_first_token_ms', '{:.0f}')} ms, "
        f"{figure('read_gbps', '{:.1f}')} GB/s, peak memory {figure('peak_memory_bytes', '{:.0f}', 1e-6)} MB"
        f"{halted}"
    )
