"""Sentences that figures and tables share: the scale at which they were made, and what is missing from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from repro.registry.labels import number
from repro.report.selection import Groups, Selection, diverged, members, named
from repro.results.measurements import TITLES
from repro.results.records import Record

#: Scale of the posts' CIFAR-10 experiments: training images, pixels, base width of ResNet18.
PUBLISHED_SCALE = {"train_images": 50_000, "image_size": 32, "width": 64}

INTERVAL = "95\u00a0% Student-t interval over seeds, cut at 0 and 100\u00a0% (arrows)"
"""Of accuracies and shares."""
BAND = "Lines: mean over seeds; bands: its 95 % Student-t interval, cut at 0 and 100 %."
OURS = "; ours, not in the source"
LOST = "No value published: the post's own table was a picture and is lost."
REDUCED = " – not the published scale"


def span(values: Iterable[int]) -> str:
    """``least to greatest``, or the one value."""
    low, high = min(values := list(values)), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def seeds(counts: Sequence[int]) -> str:
    """``n = 2 to 3 seeds``."""
    return f"n = {span(counts)} seed{'s' if max(counts) > 1 else ''}"


def stamp(groups: Groups) -> str:
    """The scale at which a figure was made, from its records: profile, images, pixels, width, seeds."""
    found = members(groups)
    values = {name: [int(r.spec[name]) for r in found if r.spec[name] is not None] for name in PUBLISHED_SCALE}
    width = f"width {span(values['width'])}, " if values["width"] else ""  # torchvision's networks have none
    full = all(set(values[name]) == {size} for name, size in PUBLISHED_SCALE.items())
    return (
        f"{found[0].profile} profile: {span(values['train_images'])} images at "
        f"{' to '.join(f'{number(s)} × {number(s)}' for s in sorted(set(values['image_size'])))} px, "
        f"{width}{seeds([len(group) for group in groups.values()])}"
        f"{'' if full else REDUCED}{reduced_data(found)}{ours(groups)}"
    )


def stamp_by_network(groups: Groups) -> str:
    """As ``stamp`` where a figure shows several networks: sizes by network, images, epochs, seeds."""
    found = members(groups)
    images, epochs = (span(int(r.spec[name]) for r in found) for name in ("train_images", "epochs"))
    return (
        f"{found[0].profile} profile: {', '.join(dict.fromkeys(map(network_size, found)))}; {images} images, "
        f"{epochs} epochs, {seeds([len(group) for group in groups.values()])}"
        f"{'' if found[0].profile == 'paper' else REDUCED}{reduced_data(found)}{ours(groups)}"
    )


def ours(groups: Groups) -> str:
    """What the stamp of a figure or table says that the source does not have."""
    return OURS if isinstance(groups, Selection) and "extra-" in groups.artefact else ""


def network_size(record: Record) -> str:
    """Network, pixels and width of a run."""
    model, width = record.spec["model"], record.spec["width"]
    return f"{TITLES.get(model, model)} {record.spec['image_size']} px" + ("" if width is None else f" width {width}")


def reduced_data(records: Iterable[Record]) -> str:
    """What is said of data sets of which a smaller copy was used; nothing where none was."""
    reduced = sorted({f"{r.data['name']}: {r.data['reduced']}" for r in records if r.data.get("reduced")})
    return "".join(f"; reduced data ({item})" for item in reduced)


def gaps(groups: Groups, *, fewer: bool = True) -> list[str]:
    """Sentences on seeds that diverged, and on seeds that a run lacks while others have them.

    A run without the last seeds of the others has fewer, as the study plans them by looks; one without a seed before
    its own last misses it. ``fewer``: say the former, too.
    """
    every_seed = sorted({r.seed for r in members(groups)})
    notes, short = [], []
    for group in groups.values():
        lost = [r.seed for r in diverged(group)]
        own = {r.seed for r in group}
        missing = [seed for seed in every_seed if seed not in own and seed < max(own)]
        if fewer and len(own) + len(missing) < len(every_seed):
            short.append(f"{named(group)} ({len(own)})")
        if lost:
            chance = number(100.0 * group[0].chance)
            notes.append(f"Diverged, counted at chance ({chance} %): {named(group)}, {_listed(lost)}.")
        if missing:
            notes.append(f"Missing: {named(group)}, {_listed(missing)}.")
    if short:
        notes.append(f"Fewer seeds than {len(every_seed)}: {', '.join(short)}.")
    single = [named(group) for group in groups.values() if len(group) < 2]
    if len(single) == len(groups):
        notes.append("One seed, so no interval.")
    elif single:
        notes.append(f"One seed, so no interval: {', '.join(single)}.")
    return notes


def gaps_of_many(groups: Groups, counted: str = "counted at chance") -> list[str]:
    """As ``gaps``, with all diverged runs in one sentence, which says how they are ``counted``."""
    lost = {run: [str(record.seed) for record in diverged(group)] for run, group in groups.items()}
    said = [f"{named(groups[run])} ({', '.join(found)})" for run, found in lost.items() if found]
    notes = [f"Diverged, {counted} (seeds): {'; '.join(said)}."] if said else []
    return notes + [note for note in gaps(groups) if not note.startswith("Diverged")]


def _listed(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
