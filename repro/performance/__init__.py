"""What training costs in time and memory against the batch size: the performance models of the paper (lb).

``memory`` counts the five parts of Eq. 3, ``timing`` measures the two local parts of Eq. 2, ``peak`` watches a child
process from outside; ``measure`` puts them into a run of kind ``measure``. ``fits`` holds the models, ``predict`` what
follows from them, ``advise`` the tool, ``judge`` the verdicts. ``fits``, ``predict`` and ``judge`` import no torch.
"""
