"""Seconds of training until a stated accuracy, over several seeds."""
