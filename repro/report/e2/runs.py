"""Runs of post 2, and its codecs and networks in words."""

from __future__ import annotations

from repro.experiments import post2
from repro.results import traffic

BASELINE, GQ, DGC = "e2-large-batch", "e2-large-batch-gq", "e2-large-batch-dgc"
COSINE, DGC_COSINE, WEIGHTS = "e2-large-batch-cosine", "e2-large-batch-dgc-cosine", "e2-large-batch-weights"
FEDERATED, FEDERATED_GQ = "e2-federated", "e2-federated-gq"

PLAIN, CLIPPED = "e2-large-batch-plain", "e2-large-batch-dgc-clip"
SPARSE_RUNS = tuple(run + part for run in (PLAIN, FEDERATED) for part in ("", "-top10", "-top1"))
PARTS = {
    CLIPPED: "DGC with all parts",
    f"{CLIPPED}-unaccumulated": "without accumulation",
    f"{CLIPPED}-uncorrected": "without momentum correction",
    DGC: "without clipping",
}
LARGE_BATCH_RUNS = (BASELINE, GQ, DGC)
FEDERATED_RUNS = (FEDERATED, FEDERATED_GQ)
METHOD_RUNS = (*LARGE_BATCH_RUNS, *FEDERATED_RUNS)
METHODS = {"large_batch": BASELINE, "federated": FEDERATED}

NETWORKS = tuple((model, classes) for model in ("resnet18", "resnet50") for classes in (10, 1000))
PAYLOAD_RUNS = tuple(f"e2-payloads-{model}-{classes}" for model, classes in NETWORKS)
RESNET18_RUNS = PAYLOAD_RUNS[:2]

#: Fields of a spec in which the runs of this post differ; columns of its CSV files.
COLUMNS = ("codec", "quantised_weights", "momentum", "schedule")

MODELS = {"resnet18": "ResNet18", "resnet50": "ResNet50"}
CODECS = {
    "dense": "uncompressed",
    "int8": "GQ",
    "int8+zip": "GQ + zip",
    "int8-affine": "GQ (affine)",
    "dgc": "DGC",
    "dgc+zip": "DGC + zip",
    **{
        f"{traffic.dgc_at(sparsity)}{end}": f"DGC{words}, warm-up at {sparsity:g}"
        for sparsity in post2.WARM_UP
        for end, words in (("", ""), ("+zip", " + zip"))
    },
    "top-k": "top-k without residual",
    "top-k-residual": "top-k with residual",
    "threshold": "fixed threshold, without residual",
    "qsgd": "QSGD",
    "terngrad": "TernGrad",
    "1-bit": "1-bit SGD",
}
CONTENTS = {traffic.CHANGE: "changes of weights", traffic.WEIGHTS: "weights"}
"""What messages other than those of gradients hold; rows of their own in e2.table5."""

PUBLISHED_ACCURACY = 90
"""Of e2.fig2 after 150 epochs, in percent (statement e2.c6)."""
PUBLISHED_RATE, PUBLISHED_SAVED = 4, 50
TOLERANCES: dict[float, float] = {PUBLISHED_RATE: 0.04, PUBLISHED_SAVED: 10}
"""By how much they may differ and still fit, as the rules of e2.c1 and e2.c2 have it."""
"""Of quantised gradients: how many times less they send, and percent that zip saves of them (e2.c1, e2.c2)."""
PUBLISHED_FACTORS = (1 / 5, 3)
"""What large batch sends over what federated averaging sends, with 10 and with 1000 classes (e2.c8, e2.c7)."""
WITHIN = 0.25
"""Share of a published factor by which ours may differ and still fit, as the rule of e2.c7 has it."""
