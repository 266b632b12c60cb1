"""The shared nouns: variant manifest, fleet file, run record, measures, units, errors.

A leaf: imports nothing of ours, no torch and no web framework. The packages meet through the files described here.
"""
