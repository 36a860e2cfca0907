"""The backend ``local``: nodes are processes of this machine and their TEEs are **simulated**, which protects nothing.

Beside the command line's own wiring this package alone imports :mod:`confide.attest.insecure`; nodes on real TEEs never import it.
"""
