"""Keeps fleets of servers fresh by replacing them, one after another, from images that were proven first."""
