"""Rotation and cache write: skipped slots, strided heads, e4m3 beyond its range, odd sizes."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from infersim.kernels import rope_kv_write as module
from infersim.kernels.fp8_kv import E4M3
from infersim.kernels.rope_kv_write import reference, rope_kv_write, work

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
BLOCK_SIZE = 16


class Tokens(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    positions: torch.Tensor
    cos_sin: torch.Tensor

    def double(self) -> Tokens:
        return Tokens(*(x.double() for x in self[:3]), *self[3:])


def angles(positions: int, head_dim: int) -> torch.Tensor:
    inverse = 10000 ** (-torch.arange(0, head_dim, 2).double() / head_dim)
    angle = torch.arange(positions).double()[:, None] * inverse
    return torch.cat([angle.cos(), angle.sin()], -1).float()


def tokens(
    count: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str
) -> Tokens:
    """q, k and v are slices of one projection, as in a model."""
    torch.manual_seed(count)
    qkv = torch.randn(count, heads + 2 * kv_heads, head_dim).to(device, dtype)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    positions = torch.randint(0, 64, (count,), dtype=torch.int32).to(device)
    return Tokens(q, k, v, positions, angles(64, head_dim).to(device))


def caches(
    given: Tokens, dtype: torch.dtype, blocks: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Empty caches of keys and values, and slots in random order, the third -1."""
    shape = (blocks, BLOCK_SIZE, *given.k.shape[1:])
    slots = torch.randperm(blocks * BLOCK_SIZE)[: given.k.shape[0]]
    slots[2:3] = -1
    device = given.k.device
    empty = torch.zeros(shape, device=device).to(dtype)
    return empty, empty.clone(), slots.to(device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 64), (9, 1, 64), (3, 1, 80)], ids=str
)
def test_it_is_the_reference(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str, close
) -> None:
    given = tokens(5, heads, kv_heads, head_dim, dtype, device)
    k_cache, v_cache, slots = caches(given, dtype)
    rotated = rope_kv_write(*given, k_cache, v_cache, slots)
    k_expected, v_expected, _ = caches(given.double(), torch.float64)
    expected = reference(*given.double(), k_expected, v_expected, slots)
    close(rotated, expected)
    close(k_cache, k_expected)
    close(v_cache, v_expected)
    untouched = torch.ones(k_cache.shape[:2], dtype=torch.bool, device=device).flatten()
    untouched[slots[slots >= 0]] = False
    assert not k_cache.flatten(0, 1)[untouched].any()
    assert not v_cache.flatten(0, 1)[untouched].any()


def test_the_reference_rotates_pairs_as_complex_numbers() -> None:
    given = tokens(5, 2, 1, 8, torch.float64, "cpu")
    k_cache, v_cache, slots = caches(given, torch.float64)
    rotated = reference(*given, k_cache, v_cache, slots)
    turn = torch.complex(*angles(64, 8).double().chunk(2, 1))
    expected = torch.complex(*given.q.chunk(2, -1)) * turn[given.positions.long()][:, None]
    torch.testing.assert_close(
        rotated, torch.cat([expected.real, expected.imag], -1), atol=1e-6, rtol=0
    )
    assert torch.equal(v_cache.flatten(0, 1)[slots[0]], given.v[0])


@pytest.mark.parametrize("architecture", [90, 80], ids=["native", "bits"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_into_e4m3_values_are_rounded_and_clamped(
    dtype: torch.dtype, architecture: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "architecture", lambda device: architecture)
    given = tokens(6, 2, 2, 64, dtype, device)
    given.v[0] *= 60  # 60 / 0.05 is beyond 448
    given.v[1, :, :3] = torch.tensor([60.0, -60.0, 448 * 0.05])
    given.k[3] *= 100
    scales = {"k_scale": 0.04, "v_scale": 0.05}
    k_cache, v_cache, slots = caches(given, E4M3)
    rope_kv_write(*given, k_cache, v_cache, slots, **scales)
    k_expected, v_expected, _ = caches(given, E4M3)
    reference(*given, k_expected, v_expected, slots, **scales)
    assert torch.equal(v_cache.view(torch.uint8), v_expected.view(torch.uint8))
    # a rotation may be rounded once less on a GPU, and fall on the other side of a tie
    torch.testing.assert_close(k_cache.float(), k_expected.float(), rtol=0.13, atol=2**-9)
    assert (k_cache.float() != k_expected.float()).float().mean() < 0.01
    stored = v_cache.flatten(0, 1)[slots[1]].float()
    assert stored[0, :3].tolist() == [448.0, -448.0, 448.0]
    assert not v_cache.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_divide_wide_caches_too(dtype: torch.dtype, device: str, close) -> None:
    given = tokens(4, 2, 2, 64, dtype, device)
    k_cache, v_cache, slots = caches(given, dtype)
    rope_kv_write(*given, k_cache, v_cache, slots, k_scale=0.5, v_scale=4.0)
    k_expected, v_expected, _ = caches(given, torch.float64)
    reference(*given.double(), k_expected, v_expected, slots, k_scale=0.5, v_scale=4.0)
    close(k_cache, k_expected)
    close(v_cache, v_expected)


def test_an_interleaved_cache_and_no_tokens(device: str, close) -> None:
    given = tokens(5, 2, 2, 64, torch.float32, device)
    _, _, slots = caches(given, torch.float32)
    both = torch.zeros(3, 2, BLOCK_SIZE, 2, 64, device=device)
    rope_kv_write(*given, both[:, 0], both[:, 1], slots)
    expected = torch.zeros(3, 2, BLOCK_SIZE, 2, 64, device=device).double()
    reference(*given.double(), expected[:, 0], expected[:, 1], slots)
    close(both, expected)
    none = Tokens(*(x[:0] for x in given[:4]), given.cos_sin)
    assert rope_kv_write(*none, both[:, 0], both[:, 1], slots[:0]).shape == (0, 2, 64)


def test_work_halves_the_writes_of_fp8() -> None:
    wide, narrow = work(10, 8, 2, 64), work(10, 8, 2, 64, kv_bytes=1)
    assert wide.bytes - narrow.bytes == 10 * 2 * 2 * 64


@pytest.mark.gpu
def test_a_cache_of_more_than_2_31_elements(close) -> None:
    blocks = 2**31 // (16 * 8 * 128) + 4
    k_cache, v_cache = torch.zeros(2, blocks, 16, 8, 128, device="cuda", dtype=torch.bfloat16)
    given = tokens(48, 32, 8, 128, torch.bfloat16, "cuda")
    slots = torch.arange(blocks * 16 - 48, blocks * 16, device="cuda")
    rotated = rope_kv_write(*given, k_cache, v_cache, slots)
    k_near, v_near = torch.zeros(2, 3, 16, 8, 128, device="cuda", dtype=torch.float64)
    close(rotated, reference(*given.double(), k_near, v_near, torch.arange(48, device="cuda")))
    close(k_cache[-3:], k_near)
    close(v_cache[-3:], v_near)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 256, 8192])
def test_llama_8b(count: int, close) -> None:
    given = tokens(count, 32, 8, 128, torch.bfloat16, "cuda")
    k_cache, v_cache, slots = caches(given, torch.bfloat16, blocks=600)
    rotated = rope_kv_write(*given, k_cache, v_cache, slots)
    k_expected, v_expected, _ = caches(given, torch.float64, blocks=600)
    close(rotated, reference(*given.double(), k_expected, v_expected, slots))
    close(k_cache, k_expected)
