"""What fits on what, before anything is simulated."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import print_json, print_table


def size(
    model: Annotated[str, typer.Argument(help="A name from `infersim models`, or a YAML file.")],
    gpu: Annotated[str, typer.Argument(help="A name from `infersim gpus`, or a YAML file.")],
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs of a replica.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages of a replica.")] = 1,
    dtype: Annotated[str, typer.Option(help="Weights: auto is as published.")] = "auto",
    kv_dtype: Annotated[str, typer.Option(help="KV cache: auto is bf16.")] = "auto",
    memory_fraction: Annotated[float, typer.Option(help="Share of the memory used.")] = 0.9,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Token budget of a step.")] = 8192,
    max_num_seqs: Annotated[int, typer.Option(help="Most requests in the batch.")] = 256,
    block_size: Annotated[int, typer.Option(help="Tokens of a KV block.")] = 16,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what fits: weights, KV per token, blocks, context and batch; roofline TTFT and TPOT.

    `infersim size llama-3.1-70b h100 --tp 4` shows every term of the memory, from the top to the
    KV blocks that remain. Latencies are datasheet rooflines: good for orders of magnitude.
    """
    from ..scenarios.catalog import load
    from ..sim.cost.size import size as sized
    from ..sim.cost.specs import Parallelism

    found = sized(
        load.model(model),
        load.gpu(gpu),
        Parallelism(tp, pp),
        dtype=dtype,
        kv_dtype=kv_dtype,
        memory_fraction=memory_fraction,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        block_size=block_size,
    )
    if json:
        print_json(found.as_dict())
        return
    shape = f"tp {found.tp}, pp {found.pp}, weights {found.dtype}, KV {found.kv_dtype}"
    typer.echo(f"{found.model} on {found.gpu}, {shape}\n")
    print_table(("", "", ""), found.rows())
