"""What there is: policies, presets, models, GPUs, links and the schema."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .console import print_json, print_table

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def policies(
    family: Annotated[str, typer.Argument(help="Only this family, e.g. eviction.")] = "",
    json: Json = False,
) -> None:
    """List the policies, their parameters and what each promises.

    A scenario chooses them under `policies:`, by name or with parameters:
    `eviction: lru` or `eviction: {name: lfu, counting: global}`. A class in a file of yours
    works too: `eviction: my_policy.py:MyClass`.
    """
    from ..policies.errors import UnknownNameError
    from ..policies.registry import FAMILIES

    if family and family not in FAMILIES:
        raise UnknownNameError("family of policies", family, FAMILIES)
    rows = [
        _policy_row(one, name, cls)
        for one in ([family] if family else FAMILIES)
        for name, cls in FAMILIES[one]
    ]
    if json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['family']:<15}{row['name']:<18}{row['summary']}")
        details = [f"{key}: {value}" for key, value in row["parameters"].items()]
        if row["promises"]:
            details.append(f"promises {', '.join(row['promises'])}")
        if details:
            typer.echo(f"{'':<33}{' · '.join(details)}")


def _policy_row(family: str, name: str, cls: type[Any]) -> dict[str, Any]:
    from ..policies.types import Promise
    from ..scenarios.choice import defaults

    promise = getattr(cls, "promise", Promise())
    words = ("repeats", "dynamic", "oracle", "exportable", "tail_first")
    return {
        "family": family,
        "name": name,
        "summary": (cls.__doc__ or "").strip().split("\n")[0],
        "parameters": defaults(cls),
        "promises": [word for word in words if getattr(promise, word)],
    }


def presets(json: Json = False) -> None:
    """List the engine presets; a scenario chooses one under `cluster.engine`."""
    from ..scenarios.schema.presets import PRESETS

    if json:
        print_json({name: preset._asdict() for name, preset in PRESETS.items()})
        return
    for name, preset in PRESETS.items():
        typer.echo(f"{name:<20}{preset.summary}")
        chosen = preset.policies | preset.parameters
        typer.echo(f"{'':<20}{' · '.join(f'{key}: {value}' for key, value in chosen.items())}")
        typer.echo(f"{'':<20}version {preset.version}: {preset.source}")


def models(json: Json = False) -> None:
    """List the models of the catalogue.

    KV is what one token of context keeps over all layers and GPUs at tp 1, in bf16. A YAML file
    of yours can stand in a scenario in place of a name: `model: my_model.yaml`.
    """
    from ..scenarios.catalog import load

    found = [load.model(name) for name in load.names("model")]
    if json:
        print_json([vars(model) | _derived(model) for model in found])
        return
    head = ("model", "parameters B", "active B", "layers", "KV B/token", "context", "published in")
    print_table(
        head,
        [
            (
                model.name,
                round(model.parameters / 1e9, 2),
                round(model.active_parameters / 1e9, 2),
                model.layers,
                model.kv_bytes_per_token(),
                model.max_pos,
                model.native_dtype,
            )
            for model in found
        ],
    )


def _derived(model: Any) -> dict[str, Any]:
    return {
        "vision": vars(model.vision) if model.vision else None,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "kv_bytes_per_token": model.kv_bytes_per_token(),
    }


def gpus(json: Json = False) -> None:
    """List the GPUs of the catalogue: dense datasheet figures, and how sure they are."""
    from ..scenarios.catalog import load

    found = [load.gpu(name) for name in load.names("gpu")]
    if json:
        print_json([vars(gpu) for gpu in found])
        return
    head = ("GPU", "bf16 TFLOPS", "fp8 TFLOPS", "memory GB", "GB/s", "scale-up GB/s", "confidence")
    print_table(
        head,
        [
            (
                gpu.name,
                round(gpu.bf16_flops / 1e12, 1),
                round(gpu.fp8_flops / 1e12, 1),
                round(gpu.memory_gb or gpu.memory_bytes / 1e9, 1),
                round(gpu.memory_bytes_per_s / 1e9),
                round(gpu.scaleup_bytes_per_s / 1e9),
                gpu.confidence,
            )
            for gpu in found
        ],
    )


def links(json: Json = False) -> None:
    """List the links of the catalogue; a scenario names one under `links.kv`."""
    from ..scenarios.catalog import load

    found = [load.link(name) for name in load.names("link")]
    if json:
        print_json([vars(link) for link in found])
        return
    rows = [
        (
            link.name,
            round(link.latency_s * 1e6, 3),
            round(link.bandwidth_bytes_per_s / 1e9, 3),
            link.confidence,
        )
        for link in found
    ]
    print_table(("link", "latency us", "GB/s", "confidence"), rows)


def schema() -> None:
    """Print the JSON Schema of scenario files, for editors.

    `infersim schema > scenario.schema.json`, then put
    `# yaml-language-server: $schema=scenario.schema.json` on top of a scenario.
    """
    from ..scenarios.schema.outline import scenario_schema

    print_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **scenario_schema()})
