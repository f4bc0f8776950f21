from ..options import run_module
from .command import main

run_module("scotoma bench attacks", main)
