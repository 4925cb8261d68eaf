"""The Universal Scalability Law: X(n) = λn / (1 + σ(n − 1) + κn(n − 1)).  (pure)

λ is what one does alone, σ the part that is serial (contention), κ what each pays for every other (coherency). Gunther,
"Guerrilla Capacity Planning", 2007.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np

POINTS_MIN = 3
"""Three unknowns want as many different n."""


class Usl(msgspec.Struct, frozen=True):
    """A fitted law: ``rate`` is λ; ``contention`` σ; ``coherency`` κ."""

    rate: float
    contention: float
    coherency: float

    def throughput(self, n: float) -> float:
        """Return X(n)."""
        return self.rate * n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def peak(self) -> float:
        """Return the n beyond which more make it slower; infinite where there is no coherency."""
        return float(np.sqrt((1 - self.contention) / self.coherency)) if self.coherency else float("inf")

    def efficiency(self, n: float) -> float:
        """Return X(n) against n times X(1)."""
        return self.throughput(n) / (n * self.rate)


class Unidentifiable(ValueError):
    """Too few points, or none that scales, to tell the law from; the message says which."""


def fit(points: Iterable[tuple[float, float]]) -> Usl:
    """Return the law that fits (n, X) best, with σ, κ ≥ 0; raise `Unidentifiable`.

    In n / X(n) the law is linear: n/X = 1/λ + σ/λ·(n − 1) + κ/λ·n(n − 1). Least squares of that, weighted by X² so that
    errors count as parts of what was measured; a coefficient that comes out negative is left out of another fit.
    """
    known = [(n, x) for n, x in points if n >= 1 and x > 0]
    if len({n for n, _ in known}) < POINTS_MIN:
        raise Unidentifiable(f"the law needs {POINTS_MIN} different counts, and there are {len({n for n, _ in known})}")
    counts = np.array([n for n, _ in known])
    rates = np.array([x for _, x in known])
    # A part of an error in X is the same part of n/X.
    weights = rates / counts
    columns = np.stack([np.ones_like(counts, dtype=float), counts - 1, counts * (counts - 1)], axis=1)
    used = [0, 1, 2]
    while True:
        solution, *_ = np.linalg.lstsq(columns[:, used] * weights[:, None], counts / rates * weights, rcond=None)
        negative = [place for place, value in zip(used, solution, strict=True) if value < 0 and place]
        if not negative:
            break
        used.remove(negative[-1])
    found = dict(zip(used, solution.tolist(), strict=True))
    if found[0] <= 0:
        raise Unidentifiable("what was measured does not scale like one server many times")
    rate = 1 / found[0]
    return Usl(rate, found.get(1, 0.0) * rate, found.get(2, 0.0) * rate)
