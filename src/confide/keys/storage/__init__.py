"""How the broker's store lies in a database: tables and their migrations, one connection, authenticated contents, the audit tree.

Knows nothing of what is stored or who may have it; ``keys.store`` puts the parts together.
"""
