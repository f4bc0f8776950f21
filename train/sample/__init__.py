"""A small real data set inside the package, so that first use needs no network."""
