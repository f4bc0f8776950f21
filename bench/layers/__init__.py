"""The operator ``relu(mask * BN(x) + residual)`` where the networks use it, fused and unfused."""
