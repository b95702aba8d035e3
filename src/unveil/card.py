"""The model card: what a saved folder says of itself to whoever opens it."""

from collections.abc import Mapping
from typing import Any

from unveil.data.schema import Schema
from unveil.evaluation import Evaluation
from unveil.settings import Settings


def card(
    settings: Settings, schema: Schema, evaluation: Evaluation, facts: Mapping[str, Any]
) -> str:
    """The card as Markdown. ``facts`` are further lines, name → value."""
    a = settings.architecture
    told = {
        "data": f"{settings.source}, {settings.rows} rows of {schema.dims} modelled cells",
        "latents": f"{' + '.join(map(str, a.latents))}, {evaluation.active_units} of them used",
        "likelihood": a.likelihood,
        "prior": a.prior,
        "posterior": a.posterior,
        "networks": a.network,
        "objective": settings.objective,
        "seed": settings.seed,
        **facts,
    }
    baselines = {
        name: "unknown" if value is None else f"{value:.3f}"
        for name, value in evaluation.baselines.items()
    }
    lines = [
        "# A variational autoencoder fitted with unveil",
        "",
        *(f"- {name}: {value}" for name, value in told.items()),
        "",
        "## How good it is",
        "",
        f"On {evaluation.rows} {evaluation.split}, in nats per row of the data's own units:",
        "",
        "| quantity | value |",
        "|---|---|",
        f"| {evaluation.lower.method} lower bound | {evaluation.lower} |",
        f"| ELBO = −(distortion + rate) | {evaluation.elbo:.3f} = "
        f"−({evaluation.distortion:.3f} + {evaluation.rate:.3f}) |",
        *(
            [f"| bits per dimension | {evaluation.bits_per_dim:.4f} |"]
            if evaluation.bits_per_dim is not None
            else []
        ),
        f"| independent columns | {baselines['independent']} |",
        f"| probabilistic PCA | {baselines['ppca']} |",
        "",
        *(f"- warning: {warning}" for warning in evaluation.warnings),
        "",
        "## How to use it",
        "",
        "```python",
        "import unveil",
        "",
        'fitted = unveil.load("this folder")',
        "fitted.sample(10)",
        "```",
        "",
        "The files are safetensors and JSON; loading them runs no code. `model.json` holds the",
        "settings and the checksums, `schema.json` how each column is measured. Of a table,",
        "`calibration.safetensors` holds rows of the data themselves: think before sharing them.",
        "",
    ]
    return "\n".join(lines)
