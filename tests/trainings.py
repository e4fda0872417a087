"""Short trainings, for tests that compare the engines."""

from repro.training import fast, plain
from repro.training.local import ONE_EPOCH


def federated(engine, model, batches, exchange, optimisation, rounds, local=ONE_EPOCH, processes=1):
    """All rounds of federated averaging by ``plain``, or by ``fast`` on some processes."""
    if engine is plain:
        return list(plain.federated_averaging(model, batches, exchange, optimisation, range(rounds), local))
    with fast.client_pool(model, batches, exchange, optimisation, local, processes=processes) as pool:
        return list(fast.federated_averaging(model, pool, range(rounds)))
