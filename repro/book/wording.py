"""How durations, counts, settings and published values are written for readers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from repro.registry import labels

_STEPS = (10, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600, 7200, 10800, 18000, 28800, 43200, 86400)


def about(seconds: float) -> str:
    """A duration as a rounded upper bound, which stays the same when a machine is a little slower.

    >>> about(4), about(95), about(4000), about(400_000)
    ('under 10 seconds', 'under 2 minutes', 'under 2 hours', 'about 5 days')
    """
    limit = next((step for step in _STEPS if seconds <= step), None)
    if limit is None:
        return f"about {round(seconds / 86400)} days"
    if limit < 60:
        return f"under {limit} seconds"
    if limit == 60:
        return "under a minute"
    if limit < 3600:
        return f"under {limit // 60} minutes"
    return "under an hour" if limit == 3600 else f"under {limit // 3600} hours"


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{labels.number(count)} {noun}{'' if count == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Words as the end of a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1] if words else "none"


def setting(value: Any) -> str:
    """A setting of a run: null, text, number, list or mapping."""
    if isinstance(value, Mapping):
        return "; ".join(f"{str(key).replace('_', ' ')}: {setting(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(setting, value))
    return value if isinstance(value, str) else json.dumps(value)


# Published values ---------------------------------------------------------------------------------------------

#: Key of a published value (a pattern) -> its words; ``{}`` is the value, ``\1`` a number in the key.
_PHRASES = {
    r"order": "{}",
    r"factor": "{} times",
    r"saved_percent": "{} % saved",
    r"accuracy_percent": "{} % accuracy",
    r"target_percent": "target of {} %",
    r"epochs": "after {} epochs",
    r"factor_(\d+)_percent": r"{} % with a factor of \1",
    r"over_factor_(\d+)": r"{} above a factor of \1",
    r"over_batch_(\d+)": r"{} above batch \1",
    r"below_factor_(\d+)": r"{} below a factor of \1",
    r"above_batch_(\d+)": r"{} above batch \1",
    r"every_(\d+)_batches_percent": r"{} % when synchronised every \1 batches",
    r"every_(\d+)_batches": r"{} when synchronised every \1 batches",
    r"non_iid_every_(\d+)_batches_percent": r"{} % on non-IID data, synchronised every \1 batches",
    r"batchnorm_non_iid_percent": "{} % with BatchNorm on non-IID data",
    r"diverges_at_learning_rates": "diverges at learning rates {}",
    r"saturates_at": "stops falling at batch {}",
    r"rises_at": "rises again at batch {}",
    r"error": "error of the line: {}",
    r"largest_error": "largest error of the line: {}",
    r"sparsified": "{} are made sparse",
    r"sparsity_first": "sparsity {} at first",
    r"sparsity_last": "{} at last",
    r"warm_up_epochs": "warm-up over {} epochs",
    r"sample_percent": "threshold from a sample of {} %",
    r"images_per_epoch": "{} images an epoch",
    r"large_batch_images": "large batches of {} images",
    r"download_over_upload": "download {} times as fast as upload",
    r"features_resnet(\d+)": r"{} features before the classifier of ResNet\1",
    r"classes": "{} classes",
    r"federated_ahead_at_(\d+)_classes": r"federated learning sends {} times less with \1 classes",
    r"large_batch_ahead_at_(\d+)_classes": r"large batch sends {} times less with \1 classes",
    r"batch_sizes": "batch sizes {}",
    r"factors": "step-up factors {}",
    r"batch": "batch {}",
    r"threshold": "threshold {}",
    r"small_batch": "small batch {}",
}
_UNITS = {"percent": " %", "points": " points", None: ""}


def published(value: Any) -> str:
    """A published value in words.

    >>> published({"accuracy_percent": 90, "epochs": 150})
    '90 % accuracy, after 150 epochs'
    >>> published({"unit": "percent", "error": {"ResNet50": [0.6, 9], "ViT": [0.9, 6.34]}})
    'error of the line: ResNet50 0.6 to 9 %, ViT 0.9 to 6.34 %'
    >>> published({"saturates_at": {"VGG11": 512, "AlexNet": 512}, "rises_at": {"ViT": 1024}})
    'stops falling at batch 512 (VGG11, AlexNet), rises again at batch 1024 (ViT)'
    """
    if value is None:
        return "no value published"
    if not isinstance(value, Mapping):
        return _item(value, "")
    if "rows" in value:
        return "a table, shown on its page"
    unit = _UNITS.get(value.get("unit"), f" {value.get('unit')}")
    return ", ".join(_phrase(str(key), item, unit) for key, item in value.items() if key != "unit")


def known(key: str) -> bool:
    """Whether a key of a published value has words of its own; others are shown by their names."""
    return key == "unit" or any(re.fullmatch(pattern, key) for pattern in _PHRASES)


def _phrase(key: str, value: Any, unit: str) -> str:
    words = next((found.expand(to) for of, to in _PHRASES.items() if (found := re.fullmatch(of, key))), None)
    return (words or f"{key.replace('_', ' ')} {{}}").format(_item(value, unit))


def _item(value: Any, unit: str) -> str:
    if isinstance(value, Mapping):
        if unit:
            return ", ".join(f"{name} {_item(item, unit)}" for name, item in value.items())
        by_value: dict[str, list[str]] = {}
        for name, item in value.items():
            by_value.setdefault(_item(item, unit), []).append(str(name))
        return listed([f"{item} ({', '.join(names)})" for item, names in by_value.items()])
    if isinstance(value, list):
        texts = [_item(item, "") for item in value]
        return (" to ".join(texts) if unit and len(texts) == 2 else listed(texts)) + unit
    if isinstance(value, str):
        return value
    whole = isinstance(value, int)
    return (labels.number(value) if whole and value >= 10_000 else str(value) if whole else f"{value:g}") + unit
