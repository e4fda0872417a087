"""The rules in ``data/published.yaml``: what the parts may hold by which a statement is judged.

Each rule is a model that names its settings, so that a setting that a rule does not read is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from repro.experiments.post2 import CODECS
from repro.files import kind_of
from repro.results.metrics import CONDITIONS, SCALES
from repro.results.statistics import STATISTICS
from repro.results.traffic import CHANGE, GRADIENT, WEIGHTS
from repro.validation import Model, Number, OneOf, Positive, Text, expecting, flaw, optional, where

TO_TARGET = ("epochs_to_target", "rounds_to_target")
ACCURACIES = ("end_top1", "mean_top1")
OTHER_ACCURACIES = ("end_top5", "top1_at_equal_iterations")
"""Accuracies that an order, a value or a bound can look at, besides ``ACCURACIES``.

At equal iterations means at the evaluation after as many iterations as the shortest of the compared runs has.
"""
GAPS = ("regularisation_gap", "gap_at_matched_loss")
"""Training accuracy minus test accuracy: at the end, and where all arms of a seed have the same training loss."""
GRADIENT_NORMS = ("first_gradient_norm", "largest_early_gradient_norm")
"""L2 norms of the gradient: in the first iteration, and the largest of the first 100. Compared as ratios."""
SENT_TOTAL = "sent_total"
"""All bytes that a trained run sent to the server. Compared as a ratio."""
OF_CLIENTS = ("own_classes_top1", "other_classes_top1")
"""Metrics of the clients' own models before the last aggregation."""
OF_PAYLOADS = ("compression_rate", "saved_by_zip")
"""Metrics of one codec in a run of payloads; their arms are ``run codec``, as in ``e2-payloads-resnet18-10 int8``.

They read messages of gradients; a third word, ``change`` or ``weights``, names other ones.
"""

_LEVELS = (*ACCURACIES, *OTHER_ACCURACIES, *OF_CLIENTS, *GAPS)
_CONTENTS = [[what] for what in (GRADIENT, CHANGE, WEIGHTS)]

Runs = Annotated[list[Text], Field(min_length=1), expecting("a list of run ids")]
SeveralRuns = Annotated[list[Text], Field(min_length=2), expecting("a list of at least two run ids")]
Contrast = Annotated[dict[str, Number], Field(min_length=1), expecting("a mapping from run ids to weights")]
Pair = Annotated[
    dict[str, Number],
    where(lambda arms: sorted(arms.values()) == [-1, 1]),
    expecting("a mapping with one run of weight 1 and one of weight -1"),
]
Methods = Annotated[
    dict[str, Number],
    where(lambda arms: sorted(arms.values()) == [-1, 1] and set(arms) == set(CODECS)),
    expecting(f"{' and '.join(CODECS)} with the weights 1 and -1"),
]
Yes = Annotated[bool, where(lambda value: value), expecting("true")]
"""A flag that is set or left out."""


# Parts of a rule ----------------------------------------------------------------------------------------------


class Under(Model):
    """The reading of a setting that the source leaves open, to which a part belongs."""

    setting: Text
    is_: Text = Field(alias="is")


class Part(Model):
    """What every part of a rule may say.

    Attributes:
        name: how the part is called on the page.
        under: the reading of a setting that the source leaves open, to which the part belongs.
        post_hoc: chosen after numbers had been seen.
        reserved: why our runs cannot decide this part yet: it stays open, its numbers shown.
        needs: what must have happened in every seed of these runs for the part to be decided.
        beside: another reading of the statement: computed and shown, but not part of the verdict.
    """

    name: Text = optional()
    under: Annotated[
        Under, expecting("a mapping with setting (what the source leaves open) and is (its value), both texts")
    ] = optional()
    post_hoc: Yes = optional()
    reserved: Text = optional()
    needs: Annotated[
        dict[Annotated[str, OneOf(tuple(CONDITIONS))], Runs],
        Field(min_length=1),
        expecting(f"a mapping from {', '.join(CONDITIONS)} to lists of run ids"),
    ] = optional()
    beside: Yes = optional()


class Compared(Part):
    """Arms (runs with weights) compared by a metric."""

    metric: str
    contrast: Any

    @model_validator(mode="after")
    def _arms_of_payloads(self) -> Compared:
        if self.metric in OF_PAYLOADS:
            words = [arm.split() for arm in self.contrast]
            if not all(len(arm) == 2 or arm[2:] in _CONTENTS for arm in words):
                raise flaw(
                    f"contrast is {kind_of(self.contrast)}; a mapping from a run and a codec, as in "
                    "'e2-payloads-resnet18-10 int8', to weights was expected; correct it"
                )
        return self


class Guarded(Part):
    """A part that is decided only if arms end above the accuracy floor, and settle.

    Attributes:
        above_floor: arms that must end above the accuracy floor, each of them.
        settled_within: the most that the contrast may move between 65 to 75 % of training and its end.
    """

    above_floor: Runs = optional()
    settled_within: Positive = optional()


class Order(Guarded, Compared):
    """One arm is better than another, by more than a least difference."""

    rule: Literal["order"]
    metric: Annotated[str, OneOf((*_LEVELS, *GRADIENT_NORMS, "step_up_share", "best_lr"))]
    contrast: Contrast
    by_more_than: Positive = optional()
    trains_like: Annotated[
        dict[str, Text],
        Field(min_length=1),
        expecting("a mapping from run ids to the run ids of their IID siblings"),
    ] = optional()

    @model_validator(mode="after")
    def _siblings_of_arms(self) -> Order:
        if strange := sorted(set(self.trains_like or {}) - set(self.contrast)):
            raise flaw(f"trains_like names {strange[0]}; arms of the contrast were expected; mend it")
        return self


class Ratio(Guarded, Compared):
    """One arm has a multiple of another's, at least so much."""

    rule: Literal["ratio"]
    metric: Annotated[
        str,
        OneOf((*TO_TARGET, "epochs_to_first_cut", "compression_rate", "top_eigenvalue", *GRADIENT_NORMS, SENT_TOTAL)),
    ]
    contrast: Pair
    at_least: Positive = optional()


class Equivalence(Compared):
    """Arms differ by less than a margin."""

    rule: Literal["equivalence"]
    metric: Annotated[str, OneOf(ACCURACIES)]
    contrast: Contrast
    margin: Positive
    above_floor: Runs = optional()


class Value(Compared):
    """A number lies within a tolerance of the published one; ``full_scale_only``: decided where both compare."""

    rule: Literal["value"]
    metric: Annotated[str, OneOf((*ACCURACIES, *OTHER_ACCURACIES, *OF_PAYLOADS, *GAPS))]
    contrast: Contrast
    published: Number
    tolerance: Positive
    full_scale_only: Yes = optional()


class Factor(Part):
    """How many times one method sends what another does: of messages x rounds, or of the bytes of ``trained`` runs."""

    rule: Literal["factor"]
    metric: Literal["total_sent"]
    payloads: Text
    contrast: Methods
    published: Positive
    tolerance: Positive
    trained: Annotated[
        dict[str, Text],
        where(lambda runs: set(runs) == set(CODECS)),
        expecting(f"a mapping from {' and '.join(CODECS)} to run ids"),
    ] = optional()
    unzipped: Yes = optional()


class Bound(Guarded, Compared):
    """A contrast is at most so much."""

    rule: Literal["bound"]
    metric: Annotated[str, OneOf((*_LEVELS, "step_up_share"))]
    contrast: Contrast
    at_most: Number


class Trend(Guarded):
    """A metric rises or falls over runs in the order of a setting."""

    rule: Literal["trend"]
    metric: Annotated[
        str,
        OneOf((
            *ACCURACIES, *OTHER_ACCURACIES, *GAPS, *GRADIENT_NORMS, SENT_TOTAL, "early_gradient_norm", "step_up_share",
            "best_lr",
        )),
    ]  # fmt: skip
    runs: SeveralRuns
    against: Annotated[str, OneOf(tuple(SCALES))]
    direction: Literal["rising", "falling"]


class OfStatistic(Part):
    """A number of one run, mean over seeds: above ``above``, or within ``tolerance`` of ``equals``."""

    rule: Literal["statistic"]
    run: Text
    statistic: Annotated[str, OneOf(tuple(STATISTICS))]
    above: Number = optional()
    equals: Number = optional()
    tolerance: Positive = optional()

    @model_validator(mode="after")
    def _one_test(self) -> OfStatistic:
        if (self.above is None) == (self.equals is None) or (self.equals is None) != (self.tolerance is None):
            raise flaw("either above, or equals with a tolerance, was expected; correct it")
        return self


class Divergence(Part):
    """Some runs diverge unlike others."""

    rule: Literal["divergence"]
    runs: Runs
    unlike: SeveralRuns


class Factors(Model):
    """The factors that the source publishes, for 1000 and for 10 classes."""

    at_1000: Positive
    at_10: Positive


class Readings(Part):
    """Which readings of "total data sent" meet both published factors."""

    rule: Literal["readings"]
    payloads: Annotated[
        list[Text], Field(min_length=2, max_length=2), expecting("a list of two run ids, that of 1000 classes first")
    ]
    published: Annotated[Factors, expecting("a mapping from at_1000 and at_10 to positive numbers")]
    tolerance: Positive


class Check(Model):
    """A number of a law against ``times`` another one."""

    number: Text
    called: Text
    is_: Literal["at most", "above"] = Field(alias="is")
    limit: Text
    times: Positive


class Law(Part):
    """The numbers of an executed law meet its checks."""

    rule: Literal["law"]
    run: Text
    checks: Annotated[list[Check], Field(min_length=1)]


class Definition(Part):
    """What a run counts is what the source defines."""

    rule: Literal["definition"]
    run: Text


# Parts of measurements, by what they measure ------------------------------------------------------------------


class Measured(Part):
    """A quantity of measurements; ``full_scale_only``: decided where published values compare."""

    rule: Literal["measured"]
    runs: Runs
    full_scale_only: Yes = optional()


Quantity = Literal["compute", "movement", "loader"]


class Plain(Measured):
    """What needs no further settings."""

    measures: Literal["falls_then_stops", "shorter_round"]


class OfQuantity(Measured):
    """A quantity that rises, or whose predictions are positive."""

    measures: Literal["rises", "positive_predictions"]
    quantity: Quantity


class Sharper(Measured):
    """``sharp`` are the runs whose growth is sharper than that of the others."""

    measures: Literal["sharper"]
    sharp: Runs


class Linear(Measured):
    """The share that is not linear, or not proportional, or by which a predicted batch errs, is at most so much."""

    measures: Literal["linear", "proportional", "largest_batch"]
    at_most: Positive


class LineError(Measured):
    """The error of the fitted line of a quantity, as a fraction, beside the largest published one."""

    measures: Literal["line_error"]
    quantity: Quantity
    largest: Positive


class MovementShare(Measured):
    """The share of data movement at a small and at a large batch size."""

    measures: Literal["movement_share"]
    at_small: Positive
    at_large: Positive


AnyMeasured = Annotated[
    Plain | OfQuantity | Sharper | Linear | LineError | MovementShare, Field(discriminator="measures")
]
AnyTrained = Order | Ratio | Equivalence | Value | Factor | Bound | Trend | Divergence
AnyPart = Annotated[AnyTrained | OfStatistic | Readings | Law | Definition | AnyMeasured, Field(discriminator="rule")]


class Judge(Model):
    """How a statement is judged, and why so."""

    why: Text
    parts: Annotated[list[AnyPart], Field(min_length=1)]

    @model_validator(mode="after")
    def _decides_under_one_setting(self) -> Judge:
        settings = sorted({part.under.setting for part in self.parts if part.under})
        if len(settings) > 1:
            raise flaw(
                f"parts stand under {' and '.join(settings)}; one setting for a statement was expected; split the "
                "statement"
            )
        if all(part.beside for part in self.parts):
            raise flaw("all parts stand beside; one that decides was expected; remove a 'beside'")
        return self
