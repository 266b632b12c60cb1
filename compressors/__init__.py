"""The offline compressor: a checkpoint and a pruning method in, a smaller stock checkpoint with its manifest out.

Read in this order: `pipeline` (what happens), `arch` (what can be pruned), `registry` and `methods` (which units
survive), `sequential` (layer after layer, each on what the pruned layers before it really output), `surgery`,
`compensation`, `export` and `verify`. `quality` measures what is left.
"""
