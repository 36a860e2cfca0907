"""The broker (key service) and its clients: who may have which key, decided by evidence and the owner's grants.

Knows nothing of datasets' contents, nodes' life cycles, engines or the command line.
"""
