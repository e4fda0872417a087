"""The step-up method of paper lb (Section III-B): gradients of a large batch, times a factor in some iterations.

Equation 6 and the conclusion multiply by X *outside* critical phases (a small change of the gradient); the text of the
experiments multiplies *in* them (a change of at least the threshold), and only that fits figure 8. Both are here by
name: ``below`` is the equation's reading, ``above`` the text's. ``always`` and ``random`` are controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.errors import ReproError

WHEN = ("above", "below", "always", "random")


def gradient_change(norm: float, previous: float | None) -> float | None:
    """Relative change of the squared gradient norm between two iterations, ``|n^2 - p^2| / p^2`` (Eq. 8).

    None in the first iteration, which has no previous norm. After a gradient of zero any other one is an infinite
    change, and another zero none.

    Args:
        norm, previous: L2 norms of the gradient of all parameters, in this iteration and in the one before.

    Raises:
        ReproError: a norm is negative, NaN or infinite.

    >>> gradient_change(3.0, 2.0), gradient_change(1.0, 2.0), gradient_change(1.0, None)
    (1.25, 0.75, None)
    """
    for value in (norm, previous):
        if value is not None and not 0 <= value < math.inf:
            raise ReproError(f"gradient norm {value}: a finite number from 0 up was expected; lower the learning rate")
    if previous is None:
        return None
    if previous == 0:
        return math.inf if norm > 0 else 0.0
    return abs((norm / previous) ** 2 - 1)


def gradient_changes(norms: Sequence[float]) -> list[float | None]:
    """``gradient_change`` of every iteration, from the norms (L2, unscaled gradient) of all of them."""
    return [gradient_change(norm, previous) for norm, previous in zip(norms, [None, *norms], strict=False)]


@dataclass(frozen=True)
class StepUp:
    """When gradients are stepped up (Eq. 6), and by how much.

    Attributes:
        factor: X, the factor of the gradient in an iteration that is stepped up.
        when: ``above``: where the change (Eq. 8) is at least ``threshold``; ``below``: where it is less;
            ``always``; ``random``: with probability ``share``, whatever the change.
        threshold: of the change; with ``above`` and ``below`` only.
        share: of the iterations; with ``random`` only.

    The first iteration has no change: ``above`` and ``below`` leave its gradient as it is.
    """

    factor: float
    when: str = "above"
    threshold: float | None = None
    share: float | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> StepUp:
        """The rule that a spec describes.

        Raises:
            ReproError: an unknown or missing setting, or one out of its range.
        """
        from repro.experiments.settings import WrittenStepUp  # whose import takes a while
        from repro.validation import fitting

        rule = fitting(WrittenStepUp, given, "step_up")
        if rule.share_of is not None:
            raise ReproError(f"step_up, key share_of: text ({rule.share_of!r}); its share was expected; insert it")
        return cls(rule.factor, rule.when, rule.threshold, rule.share)

    def factor_at(self, change: float | None, random: float) -> float:
        """Factor of the gradient in an iteration.

        Args:
            change: of the unscaled gradient (Eq. 8); None in the first iteration.
            random: a number drawn uniformly from [0, 1) for this iteration.
        """
        if self.when == "always":
            up = True
        elif self.when == "random":
            up = random < (self.share or 0.0)
        else:
            up = change is not None and (change >= (self.threshold or 0.0)) is (self.when == "above")
        return float(self.factor) if up else 1.0
