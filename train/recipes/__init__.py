"""Recipes: YAML files of settings, one named preset each."""
