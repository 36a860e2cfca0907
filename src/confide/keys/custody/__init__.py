"""Who keeps the master key: this machine, an HSM, a key service, or several people with a share each.

Knows nothing of the store that the keys are for, nor of the command line.
"""
