"""How far ahead an engine sets KV aside for a request that it admits."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ..types import Request
from .base import ReplicaView

#: beyond what its prompt takes: nothing, its longest answer, or the context limit
Reserve: TypeAlias = Literal["nothing", "answer", "context"]
RESERVES: tuple[Reserve, ...] = ("nothing", "answer", "context")


def most_tokens(view: ReplicaView, request: Request) -> int:
    """Prompt plus the longest answer that *request* may get."""
    return min(request.prompt_tokens + request.max_tokens, view.max_model_len)


def reserved_tokens(view: ReplicaView, request: Request, reserve: Reserve) -> int:
    """KV positions that *request* is promised at admission; 0: none."""
    if reserve == "nothing":
        return 0
    return most_tokens(view, request) if reserve == "answer" else view.max_model_len


def refusal(view: ReplicaView, request: Request, reserve: Reserve, whole: int | None) -> str:
    """Why *request* can never be served; "" if it can.

    Args:
        whole: tokens of a step, where a prompt must be computed in one; None: it is cut.
    """
    if whole is not None and request.prompt_tokens > whole:
        return f"prompt over the {whole} tokens of a step, and prompts are not cut"
    if reserve == "nothing":
        return ""
    tokens = reserved_tokens(view, request, reserve)
    if -(-tokens // view.block_size) > view.total_blocks:
        fits = view.total_blocks * view.block_size
        return f"needs KV for {tokens} tokens set aside, and there is room for {fits}"
    return ""


def check_reserve(reserve: str, hold: bool) -> None:
    """Verify the two parameters.

    Raises:
        ValueError: no such reserve, or nothing to hold.
    """
    if reserve not in RESERVES:
        raise ValueError(f'reserve must be one of {", ".join(RESERVES)}, found "{reserve}"')
    if hold and reserve == "nothing":
        raise ValueError("hold takes at once what reserve sets aside, and reserve is nothing")
