"""What training costs in time and memory against the batch size, measured (paper lb).

``memory`` counts the five parts of Eq. 3, ``timing`` measures the two local parts of Eq. 2, ``peak`` watches a child
process (``child``) from outside; ``measure`` puts them together. All of them train what ``workload`` describes. The
models that are fitted to measurements are in ``repro.results.fits``.
"""
