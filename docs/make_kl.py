"""What the KL term does: the digits fitted with β = 0 and with β = 1.

Prints the table of docs/derivation.md and draws its pictures (about a minute and a half):

    .venv/bin/python docs/make_kl.py
"""

import math
from pathlib import Path

import torch
from torch import Tensor

from unveil import figures
from unveil.data.read import Rows
from unveil.distributions import draw
from unveil.evidence.importance import importance
from unveil.fitted import Fitted
from unveil.fitting import finish, plan, train_planned
from unveil.latent import VAE
from unveil.noise import generator
from unveil.request import Request

FIGURES = Path(__file__).parent / "figures"
EPOCHS = 400
SHARE_HELD_OUT = 0.5  # few rows to learn from make memorising plain, many to judge by make it sure
DRAWS = 1000
PICTURES = 36
ROWS_ON_THE_MAP = 300
HEADINGS = ("β", "rows", "distortion", "rate", "ELBO", "information")


def information(vae: VAE, x: Tensor) -> float:
    """How much z tells about which of these N rows it came from, nats; never above log N.

    The mean of log q(z_n|x_n) − log (1/N) Σ_m q(z_n|x_m), one draw z_n of each row.
    """
    with torch.no_grad():
        q = vae.posterior(x)
        z = draw(q, (), generator(0, "information"))
        log_q = q.log_prob(z[:, None]).double()  # (draw, row)
    own = log_q.diagonal()
    return float((own - log_q.logsumexp(1) + math.log(len(x))).mean())


def bound_from_prior(vae: VAE, x: Tensor) -> float:
    """Mean of log (1/K) Σ_k p(x|z_k), z_k ~ p(z): a lower bound on log p(x), in expectation."""
    with torch.no_grad():
        z = draw(vae.prior(), (DRAWS, len(x)), generator(0, "prior"))
        log_likelihood = torch.cat([vae.likelihood(part).log_prob(x) for part in z.split(50)])
    return float((log_likelihood.double().logsumexp(0) - math.log(DRAWS)).mean())


def judge(fitted: Fitted, rows: Rows, name: str, beta: int) -> None:
    """Print one line of the table."""
    x = fitted.tensor(rows)
    result = importance(fitted.vae, x, num_samples=100)
    elbo, error = result.elbo.mean(), result.elbo.std() / math.sqrt(len(x))
    print(
        f"| {beta} | {name} | {result.distortion.mean():.2f} | {result.rate.mean():.2f} "
        f"| {elbo:.2f} ± {error:.2f} | {information(fitted.vae, x):.2f} of {math.log(len(x)):.2f} |"
    )


def illustrate(fitted: Fitted, held_out: Rows, beta: int) -> None:
    """Draw samples from the prior, and where held-out rows lie in latent space."""
    drawn = fitted.sample_like(held_out.take(slice(0, PICTURES)))
    samples = figures.samples(fitted.schema, held_out.dense, *drawn)
    figures.save(samples, FIGURES / f"kl_samples_beta{beta}.png")
    few = held_out.take(slice(0, ROWS_ON_THE_MAP))
    latents = figures.latent_map(fitted.encode(few)[0], few.labels["digit"])
    figures.save(latents, FIGURES / f"kl_latent_map_beta{beta}.png")


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    print("|", " | ".join(HEADINGS), "|")
    print("|---|---|---:|---:|---:|---:|")
    bounds = []
    for beta in (0, 1):
        objective = f"beta_elbo:beta={beta}"
        asked = Request(objective=objective, epochs=EPOCHS, validation=SHARE_HELD_OUT)
        planned = plan("digits", asked)
        fitted = finish(*train_planned(planned))
        judge(fitted, planned.rows.take(planned.training), "training", beta)
        judge(fitted, planned.held_out, "held-out", beta)
        bounds.append(bound_from_prior(fitted.vae, fitted.tensor(planned.held_out)))
        illustrate(fitted, planned.held_out, beta)
    print(f"\nheld-out log p(x) by {DRAWS} draws of the prior, a lower bound in expectation:")
    print(f"{bounds[0]:.2f} at β = 0, {bounds[1]:.2f} at β = 1")


if __name__ == "__main__":
    main()
