"""Logistic regression on sparse features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logistic_regression(
    rows: Sequence[tuple[NDArray[np.int64], Array]], labels: NDArray[np.bool_], *, width: int, penalty: float
) -> tuple[Array, float]:
    """(weights [F], intercept) that minimise mean log(1 + exp(-y (w x + b))) + penalty |w|² / 2, y = ±1.

    rows:    N times (columns, values) of the features that are not 0.
    labels:  bool[N].
    width:   F, the number of features.
    penalty: > 0; the intercept has none.
    The search is L-BFGS from 0. Raises ValueError if all labels are equal: the intercept would have no optimum.
    """
    from scipy.optimize import minimize  # seconds to import
    from scipy.sparse import csr_array
    from scipy.special import expit

    if labels.all() or not labels.any():
        raise ValueError("all labels are equal")
    columns, values = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    ends = np.cumsum([0, *(len(own) for own, _ in rows)])
    features = csr_array((values, columns, ends), shape=(len(rows), width))
    sign = np.where(labels, 1.0, -1.0)

    def loss(point: Array) -> tuple[float, Array]:
        weights, margin = point[:-1], sign * (features @ point[:-1] + point[-1])
        slope = -sign * expit(-margin) / len(sign)
        value = np.logaddexp(0.0, -margin).mean() + penalty / 2 * float(weights @ weights)
        return float(value), np.append(features.T @ slope + penalty * weights, slope.sum())

    options = {"maxiter": 1000, "gtol": 1e-8, "ftol": 1e-12}
    found = minimize(loss, np.zeros(width + 1), jac=True, method="L-BFGS-B", options=options).x
    return found[:-1], float(found[-1])
