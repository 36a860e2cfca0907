"""Pages for owners, approvers and auditors: what the broker shows, and the companion on their own machine that decides with their key.

``routes`` is the broker's side, ``companion`` the owner's.  Both render with ``render``, which alone knows of templates.
"""
