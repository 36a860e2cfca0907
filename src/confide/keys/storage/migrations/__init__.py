"""How the tables of older stores become those of this version (Alembic).  ``storage.database`` runs them."""
