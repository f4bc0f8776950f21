"""scotoma: defective convolutional networks, trained fast and measured honestly.

A defective layer multiplies its activations by a fixed random 0/1 mask, one entry per neuron,
the same in training and testing ("Defective Convolutional Networks", ICLR 2021 submission).

Four floors, each useful without the ones above it; imports point downwards only:

- ``scotoma.kernels``: the operator ``relu(mask * BN(x) + residual)``
- ``scotoma.defective``: masks, the paper's notation, the six networks
- ``scotoma.train``: data, recipes, the training loop, the command line
- ``scotoma.bench``: speed, and the paper's tables (to come)
"""

__version__ = "0.1.0"
