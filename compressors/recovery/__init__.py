"""Training a pruned variant back towards the dense model: from a variant directory to a new one.

Read in this order: `recover` (what happens), `registry` (what a method is), the methods, `training` and `state`.
"""
