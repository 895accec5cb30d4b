"""The peers: the same model, at the same precision, in other runtimes, measured beside ours in one run.

`python -m mobileloop_bench.peers` (or `make bench-peers`) builds what is missing, checks that every contestant says
the same, runs interleaved rounds and prints medians and ratios with their spread. docs/peers.md has the method.

Data flows one way: `store` holds what was built, `weights` makes every contestant's files from one GGUF, `ours`,
`llama`, `genai` and `executorch` are the contestants (one file each), `rounds` runs them, `document` keeps the raw
samples, `rows` turns them into the issue's figures and `table` shows them.
"""
