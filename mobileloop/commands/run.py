"""`mobileloop run`: generate text from an artifact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import Loops, Threads, check_range
from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop.generate import Generation
    from mobileloop.runtimes.base import Session
    from mobileloop.tokenizer import Tokenizer


def run(
    file: Annotated[Path, typer.Argument(help="An artifact: .safetensors, .pte or .onnx.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to say to the model.")],
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Use the model's chat template; the default where it has one."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="System message of a chat; the template's own when not given.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to generate.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the most likely token.")] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", help="Sample from the likeliest tokens of this total probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the sampling.")] = 0,
    loops: Loops = None,
    threads: Threads = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print text and statistics as one JSON document.")] = False,
) -> None:
    """Generate text, then say how fast: the text goes to stdout, one line of statistics to stderr.

    \b
    Examples:
      mobileloop run smollm2.safetensors --prompt "What is the capital of France?"
      mobileloop run smollm2.pte --prompt "Write a haiku." --temperature 0.7 --top-p 0.9 --seed 3
      mobileloop run looped.onnx --no-chat --prompt "Once upon a time" --loops 2 --threads 1
    """
    from mobileloop.generate import Sampler, generate
    from mobileloop.runtimes import open_session
    from mobileloop.tokenizer import TextStream, Tokenizer

    check_range("max-tokens", max_tokens, 1, 1 << 20)
    check_range("temperature", temperature, 0, 100)
    check_range("top-p", top_p, 1e-6, 1)
    check_range("seed", seed, 0, 2**63 - 1)
    session = open_session(file, threads=threads, loops=loops)
    if session.info.tokenizer is None:
        raise MobileloopError(
            f"{file} carries no tokenizer, because its source had none; export a source with a "
            "tokenizer to generate text."
        )
    tokenizer = Tokenizer(session.info.tokenizer)
    if system is not None and chat is False:
        raise MobileloopError("--system is part of a chat; leave --no-chat out, or --system.")
    ids = _encode(tokenizer, prompt, chat, system)
    room = session.info.context - len(ids)
    if room < 1:
        raise MobileloopError(
            f"the prompt has {len(ids)} tokens, and the context of {file} is {session.info.context}; shorten the "
            "prompt or export again with a larger --context."
        )
    if session.info.config.random_weights:
        typer.echo("note: this artifact has random weights, so the text means nothing.", err=True)
    stream = TextStream(tokenizer)
    pieces: list[str] = []

    def show(token: int) -> None:
        piece = stream.push(token)
        pieces.append(piece)
        if not as_json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    result = generate(session, ids, min(max_tokens, room), Sampler(temperature, top_p, seed), tokenizer.is_end, show)
    facts = _facts(session, result)
    if as_json:
        typer.echo(json.dumps({"text": "".join(pieces), "tokens": result.tokens, **facts}))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    typer.echo(_line(facts), err=True)


def _encode(tokenizer: Tokenizer, prompt: str, chat: bool | None, system: str | None) -> list[int]:
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise MobileloopError("the prompt is not UTF-8 text; set a UTF-8 locale, such as LC_ALL=C.UTF-8.") from None
    use_chat = chat if chat is not None else tokenizer.spec.chat_template is not None
    ids = tokenizer.chat(prompt, system) if use_chat else tokenizer.encode(prompt)
    if not ids:
        raise MobileloopError("the prompt is empty; give some text with --prompt.")
    return ids


def _facts(session: Session, result: Generation) -> dict[str, object]:
    """Statistics of a run; an unknown figure is None."""
    from mobileloop.process import memory_status

    rate = result.decode_tokens_per_s
    middle = result.prompt_tokens + len(result.tokens) // 2
    per_token = session.info.unique_bytes() + session.info.kv_bytes(middle, session.requested_loops)
    return {
        "runtime": session.runtime,
        "details": session.details(),
        "loops": session.loops,
        "threads": session.threads,
        "prompt_tokens": result.prompt_tokens,
        "generated_tokens": len(result.tokens),
        "prefill_tokens_per_s": result.prefill_tokens_per_s,
        "decode_tokens_per_s": rate,
        "time_to_first_token_ms": result.prefill_ms,
        "read_gbps": per_token * rate / 1e9 if rate else None,
        "peak_memory_bytes": memory_status().get("VmHWM"),
    }


def _line(facts: dict[str, object]) -> str:
    def figure(key: str, form: str, scale: float = 1.0) -> str:
        value = facts[key]
        return "unknown" if value is None else form.format(float(value) * scale)  # type: ignore[arg-type]

    def counted(what: str) -> str:
        return f"{facts[what + 's']} {what}{'' if facts[what + 's'] == 1 else 's'}"

    return (
        f"[{facts['runtime']}, {counted('loop')}, {counted('thread')}] "
        f"prefill {figure('prefill_tokens_per_s', '{:.1f}')} tokens/s, "
        f"decode {figure('decode_tokens_per_s', '{:.1f}')} tokens/s, "
        f"first token {figure('time_to_first_token_ms', '{:.0f}')} ms, "
        f"{figure('read_gbps', '{:.1f}')} GB/s, peak memory {figure('peak_memory_bytes', '{:.0f}', 1e-6)} MB"
    )
