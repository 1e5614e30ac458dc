"""Steps that bring a store up to date; ``server.store.database`` runs them."""
