"""Flower's side of a simulation: a Grid inside one process, for apps that bring their own ServerApp."""
