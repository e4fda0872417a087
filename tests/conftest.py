"""One thread per process, as in every run: results of two machines differ less, and forked workers cannot hang."""

import torch

torch.set_num_threads(1)
