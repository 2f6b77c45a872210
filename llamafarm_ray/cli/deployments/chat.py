"""``llamafarm models chat``."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from llamafarm_ray.cli.options import Home, Json, ServedModel, Url
from llamafarm_ray.cli.terminal import console, print_json

__all__ = ["command"]


def command(
    question: Annotated[str | None, typer.Argument(help="One question; without: a conversation.")] = None,
    model: ServedModel = None,
    url: Url = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is always the same answer.")] = 0.0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Ask a deployed model."""
    from llamafarm_ray.registry import open_registry
    from llamafarm_ray.workflows.deployments.chat import ask, stream
    from llamafarm_ray.workflows.deployments.deployed import deployment_of

    # The registry's token goes to its own deployment only; elsewhere the key is what every OpenAI client takes.
    key = os.environ.get("OPENAI_API_KEY" if url else "LLAMAFARM_TOKEN")
    if url is None or model is None:
        deployment = deployment_of(open_registry(home))
        url, model = url or deployment.url, model or deployment.base_model
    if question is not None:
        if as_json:
            answer = ask(url, model, question, max_tokens=max_tokens, temperature=temperature, key=key)
            print_json({"answer": answer.text, "model": answer.model, "headers": answer.headers})
            return
        for piece in stream(
            url, model, [{"role": "user", "content": question}], max_tokens=max_tokens, temperature=temperature, key=key
        ):
            console.print(piece, end="", markup=False)
        console.print()
        return
    console.print(f"[dim]{model} at {url}. An empty line or Ctrl-D ends it.[/]")
    messages: list[object] = []
    while said := _read():
        messages.append({"role": "user", "content": said})
        answered = ""
        for piece in stream(url, model, messages, max_tokens=max_tokens, temperature=temperature, key=key):
            answered += piece
            console.print(piece, end="", markup=False)
        console.print()
        messages.append({"role": "assistant", "content": answered})


def _read() -> str:
    if sys.stdin.isatty():
        console.print("[bold]> [/]", end="")
    return sys.stdin.readline().strip()
