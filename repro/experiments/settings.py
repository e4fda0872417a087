"""Schedules and the step-up method as files write them: which keys there are, and what they may hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from repro.experiments.spec import TORCHVISION, Network
from repro.validation import FromZero, Model, Number, Positive, expecting, flaw, optional, where

WrittenNetwork = (
    Network
    | Annotated[str, Field(pattern=rf"^{TORCHVISION}[a-z0-9_]+$"), expecting(f"{TORCHVISION}NAME, in small letters,")]
)
Share = Annotated[int | float, where(lambda share: 0 < share < 1), expecting("a number between 0 and 1")]


class WrittenSchedule(Model):
    """What every schedule may say. Times are epochs of the published training, learning rates have no unit.

    Attributes:
        lr: the learning rate, or its start; a grid chooses it where it is left out.
        warmup_epochs, warmup_from: a warm-up of so many epochs, from this rate; both or none.
        warmup: how a profile shrinks the warm-up, where the run has its own way: its share of the epochs, or its steps.
    """

    lr: Positive = optional()
    warmup_epochs: Positive = optional()
    warmup_from: Positive = optional()
    warmup: Literal["share", "steps"] = optional()

    @model_validator(mode="after")
    def _whole_warm_up(self) -> WrittenSchedule:
        names = ("warmup_epochs", "warmup_from", "warmup")
        given = [name for name in names if name in self.model_fields_set]
        if given and not {"warmup_epochs", "warmup_from"} <= set(given):
            raise flaw(f"only {' and '.join(given)}; warmup_epochs and warmup_from were expected; add what lacks")
        return self


class ConstantSchedule(WrittenSchedule):
    """``schedules.Constant``."""

    kind: Literal["constant"]


class StepSchedule(WrittenSchedule):
    """``schedules.Step``."""

    kind: Literal["step"]
    milestones: Annotated[list[Positive], Field(min_length=1)]
    factor: Share


class CosineSchedule(WrittenSchedule):
    """``schedules.Cosine``, over ``epochs``: those of the training where they are left out."""

    kind: Literal["cosine"]
    epochs: Positive = optional()


class PlateauSchedule(WrittenSchedule):
    """``schedules.Plateau``."""

    kind: Literal["plateau"]
    factor: Share = optional()
    patience: Annotated[int, Field(ge=0)] = optional()
    threshold: Annotated[int | float, where(lambda t: 0 <= t < 1), expecting("a number from 0 up and below 1")] = (
        optional()
    )


AnySchedule = Annotated[ConstantSchedule | StepSchedule | CosineSchedule | PlateauSchedule, Field(discriminator="kind")]
"""The key ``schedule`` of a run."""


class WrittenStepUp(Model):
    """The key ``step_up`` of a run, in the terms of ``stepup.StepUp``; ``share_of`` names the run whose share it is."""

    factor: Positive
    when: Literal["above", "below", "always", "random"] = "above"
    threshold: FromZero = optional()
    share: Annotated[Number, where(lambda share: 0 <= share <= 1), expecting("a number from 0 to 1")] = optional()
    share_of: str = optional()

    @model_validator(mode="after")
    def _what_the_rule_reads(self) -> WrittenStepUp:
        wanted = {"above": "threshold", "below": "threshold", "random": "share"}.get(self.when, "neither of them")
        given = [name for name in ("threshold", "share", "share_of") if name in self.model_fields_set]
        meant = {"threshold": [["threshold"]], "share": [["share"], ["share_of"]]}.get(wanted, [[]])
        if given not in meant:
            raise flaw(
                f"{' and '.join(given) or 'no threshold or share'} with when {self.when}; "
                f"{wanted} was expected; correct it"
            )
        return self
