"""Where the time of a step goes: kernels by family, gaps, a timeline, and traces for viewers."""
