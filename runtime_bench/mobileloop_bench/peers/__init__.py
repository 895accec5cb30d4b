"""The peers: the same model, at the same precision, in other runtimes, measured beside ours by `mobileloop bench`.

`python -m mobileloop_bench.peers build` builds them once; `mobileloop bench --peer NAME` gives them turns beside any
artifact, and `--recipe peers` (`make bench-peers`) is the fixed comparison. docs/peers.md has the method.

Data flows one way: `builds` holds what was built, `weights` makes everybody's files from one GGUF, `llama`, `genai`
and `executorch` are the peers (one file each), `plan` gives them turns, `recipe` says which ones of the fixed
comparison, `agreement` compares what they say, and `scoreboard` and `table` turn its document into figures.
"""
