"""Sources: a container (folder, GGUF) is one file that knows how bytes are stored; `load` opens whichever it is.

What a family's names and config mean is in `mobileloop.families`.
"""
